"""What pyproject.toml cannot say: ``mmext/.mim`` and the start-up file.

OpenMMLab looks for a package's configs and tools in ``<package>/.mim``. A wheel gets copies, an
editable install symbolic links, whatever front end builds it.
"""

import os
import shutil
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')
STARTUP = 'mmext.pth'
STARTUP_LINE = 'import _mmext_startup\n'


class BuildPy(build_py):
    """Add ``mmext/.mim`` and the start-up file to what is built."""

    def run(self):
        super().run()
        if self.editable_mode:
            link_mim(ROOT / 'mmext' / '.mim')
        else:
            copy_mim(Path(self.build_lib) / 'mmext' / '.mim')
            (Path(self.build_lib) / STARTUP).write_text(STARTUP_LINE)


class EditableWheel(editable_wheel):
    """Add the start-up file to an editable wheel, which holds no package files of its own."""

    def run(self):
        super().run()
        for wheel in Path(self.dist_dir).glob('mmext-*.whl'):
            add_to_wheel(wheel, STARTUP, STARTUP_LINE)


def copy_mim(target):
    """Copy configs, tools and the model index into ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in MIM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy2(source, target / name)


def link_mim(target):
    """Link configs, tools and the model index into ``target``; copy where links are not allowed."""
    target.mkdir(parents=True, exist_ok=True)
    for name in MIM:
        link = target / name
        if link.is_symlink():
            link.unlink()
        elif link.is_dir():
            shutil.rmtree(link)
        try:
            link.symlink_to(os.path.relpath(ROOT / name, target), (ROOT / name).is_dir())
        except OSError:
            copy_mim(target)
            return


def add_to_wheel(wheel, name, text):
    """Add a file to a built wheel and to its RECORD."""
    import base64
    import hashlib

    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()
    with zipfile.ZipFile(wheel) as archive:
        entries = {item: archive.read(item) for item in archive.namelist()}
    record = next(item for item in entries if item.endswith('.dist-info/RECORD'))
    line = f'{name},sha256={digest},{len(text.encode())}\n'
    entries[record] = line.encode() + entries[record]
    entries[name] = text.encode()
    with zipfile.ZipFile(wheel, 'w', zipfile.ZIP_DEFLATED) as archive:
        for item, content in entries.items():
            archive.writestr(item, content)


setup(cmdclass={'build_py': BuildPy, 'editable_wheel': EditableWheel})

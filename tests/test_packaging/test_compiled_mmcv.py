"""An mmcv with compiled operators is left alone: a real extension module stands in for them."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

# Every operator that mmcv asks for is Python's own ``repr``; ``marker`` tells the module apart.
SOURCE = r"""
#include <Python.h>
static PyObject *attribute(PyObject *module, PyObject *name) {
    if (PyUnicode_CompareWithASCIIString(name, "__path__") == 0) {
        PyErr_SetString(PyExc_AttributeError, "__path__");
        return NULL;
    }
    PyObject *builtins = PyImport_ImportModule("builtins");
    PyObject *found = builtins ? PyObject_GetAttrString(builtins, "repr") : NULL;
    Py_XDECREF(builtins);
    return found;
}
static PyMethodDef methods[] = {{"__getattr__", attribute, METH_O, NULL}, {NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_ext", NULL, -1, methods};
PyMODINIT_FUNC PyInit__ext(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module) PyModule_AddStringConstant(module, "marker", "compiled by a test");
    return module;
}
"""
LOOK = """
import sys
import mmcv.ops            # before mmext, as a host's tool does
import mmext
from mmcv import _ext
from mmext.compat import environment, mmcv_ops
assert not mmcv_ops.install() and mmcv_ops.flavour() == 'compiled'
assert not [f for f in sys.meta_path if getattr(f, 'provides', '') == 'mmcv._ext']
assert _ext.marker == 'compiled by a test' and _ext.nms is repr and mmcv.ops.nms
(finding,) = environment.check_mmcv_ops()
assert (finding.status, finding.detail) == ('ok', 'compiled'), finding
print(_ext.__file__)
"""


@pytest.fixture
def compiled_mmcv(tmp_path):
    """A folder with the installed mmcv and an ``_ext`` that a compiler made."""
    headers = Path(sysconfig.get_path('include')) / 'Python.h'
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None or not headers.exists():
        pytest.skip('needs a C compiler and the headers of Python')
    (tmp_path / 'ext.c').write_text(SOURCE)
    shutil.copytree(find_spec('mmcv').submodule_search_locations[0], tmp_path / 'path/mmcv')
    target = tmp_path / 'path/mmcv' / f'_ext{sysconfig.get_config_var("EXT_SUFFIX")}'
    subprocess.run(
        [compiler, '-shared', '-fPIC', f'-I{headers.parent}', tmp_path / 'ext.c', '-o', target],
        check=True,
    )
    return target


def look(target, **environment):
    path = os.pathsep.join([str(target.parents[1]), str(Path(__file__).parents[2])])
    return subprocess.run(
        [sys.executable, '-c', LOOK], capture_output=True, text=True, cwd=target.parents[1],
        env={**os.environ, 'PYTHONPATH': path, **environment},
    )  # fmt: skip


def test_a_compiled_extension_is_used_and_reported(compiled_mmcv):
    done = look(compiled_mmcv)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str(compiled_mmcv)


def test_one_for_another_python_is_not_hidden_either(compiled_mmcv):
    """It is broken, and says so itself instead of being replaced without a word."""
    compiled_mmcv.write_bytes(b'not an extension')
    done = look(compiled_mmcv)
    assert done.returncode and str(compiled_mmcv) in done.stderr

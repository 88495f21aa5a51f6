"""Look at the built site in a headless browser, as wide as a desktop and as narrow as a phone.

Every page is opened. Reported are errors on the console, requests that fail, images that do not
show, links to files or headings that do not exist, and pages that are wider than the window. Needs
Chromium or Chrome.

Examples:
    python docs/check_site.py
    python docs/check_site.py --screenshots build/screenshots docs/index.html docs/api/index.html
"""

import argparse
import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / 'build/docs'
WIDTHS = {'desktop': 1280, 'phone': 390}
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
#: What a page has, as the browser sees it.
LOOK = """() => ({
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  links: [...document.querySelectorAll('a[href]')].map(e => e.href),
  broken: [...document.images].filter(e => e.complete && !e.naturalWidth).map(e => e.src),
  wide: document.documentElement.scrollWidth - window.innerWidth,
})"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a local server of a folder."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server without a log."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def look(page: Page, address: str) -> tuple[dict, list[str]]:
    """Open a page; returns what it has, and what went wrong.

    Args:
        page: Of the browser.
        address: Of the page.
    """
    wrong: list[str] = []

    def console(message) -> None:
        if message.type == 'error':
            wrong.append(f'console: {message.text}')

    def failed(request) -> None:
        # The formulas' script comes from a server that need not be in reach.
        if request.url.startswith(address.split('/', 3)[0] + '//127.0.0.1'):
            wrong.append(f'not loaded: {request.url}')

    page.on('console', console)
    page.on('requestfailed', failed)
    page.goto(address, wait_until='load')
    # Pictures further down are loaded when they come into view.
    page.evaluate("document.querySelectorAll('img').forEach(e => e.loading = 'eager')")
    page.wait_for_timeout(150)
    found = page.evaluate(LOOK)
    page.remove_listener('console', console)
    page.remove_listener('requestfailed', failed)
    wrong += [f'image does not show: {src}' for src in found['broken']]
    return found, wrong


def dead_links(base: str, pages: dict[str, dict]) -> list[str]:
    """Links of pages to files or headings of the site that do not exist."""
    wrong = []
    for name, found in pages.items():
        for link in sorted(set(found['links'])):
            address, heading = urldefrag(urljoin(base + name, link))
            if not address.startswith(base):
                continue
            path = unquote(urlsplit(address).path).lstrip('/') or 'index.html'
            if not (SITE / path).exists():
                wrong.append(f'{name}: dead link {path}')
            elif heading and path in pages and unquote(heading) not in pages[path]['ids']:
                wrong.append(f'{name}: no heading {path}#{heading}')
    return wrong


def main() -> None:
    """Check the site; exit code 1 if something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('pages', nargs='*', metavar='PAGE', help='default: all')
    parser.add_argument('--screenshots', type=Path, metavar='DIR', help='a PNG of each page')
    args = parser.parse_args()
    if not SITE.is_dir():
        parser.error('there is no site: make docs')
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error(f'none of these browsers is installed: {", ".join(BROWSERS)}')
    names = args.pages or sorted(
        str(path.relative_to(SITE))
        for path in SITE.rglob('*.html')
        # The page at the root only leads to the first one.
        if path.parent != SITE or path.name != 'index.html'
        if not {'_downloads', '_static'} & set(path.relative_to(SITE).parts)
    )
    wrong: list[str] = []
    pages: dict[str, dict] = {}
    with served(SITE) as base, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=['--no-sandbox'])
        for kind, width in WIDTHS.items():
            page = chromium.new_page(viewport={'width': width, 'height': 900})
            for name in names:
                pages[name], found = look(page, base + name)
                if pages[name]['wide'] > 1:
                    found.append(f'{pages[name]["wide"]} pixels wider than the window')
                wrong += [f'{name} ({kind}): {text}' for text in found]
                if args.screenshots:
                    args.screenshots.mkdir(parents=True, exist_ok=True)
                    file = name.removesuffix('.html').replace('/', '_') + f'-{kind}.png'
                    page.screenshot(path=args.screenshots / file, full_page=False)
            page.close()
        chromium.close()
        wrong += dead_links(base, pages)
    for text in wrong:
        sys.stdout.write(f'{text}\n')
    sys.stdout.write(f'{len(names)} pages, {len(wrong)} problems\n')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()

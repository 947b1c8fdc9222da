"""The site as `make docs` has built it: its links, and its pages in a browser. `make site-test` alone runs this."""

import os
import re
import shutil
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

if "PYATTN_SITE" not in os.environ:
    pytest.skip("`make site-test` runs it, on what `make docs` has built", allow_module_level=True)

from playwright.sync_api import sync_playwright

SITE = Path(os.environ["PYATTN_SITE"]).resolve()
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "_static" not in path.parts)
# Of listings of sources, which are all alike, one
SEEN = [name for name in PAGES if not name.startswith("_modules/") or name.endswith("layers/attention.html")]
WIDTHS = (400, 1400)
SHOWN = ["index.html", "guide/encoder_decoder.html", "benchmarks.html", "api/layers.html", "auto_gallery/search.html"]


class Page(HTMLParser):
    """The addresses that a page points to or loads, the names that others can point to, and its pictures."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.names, self.pictures = [], set(), []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        self.targets += [found[key] for key in ("href", "src") if found.get(key)]
        if tag == "img":
            self.pictures.append((found["src"], found.get("alt")))


@pytest.fixture(scope="module")
def parsed():
    return {SITE / name: Page(SITE / name) for name in PAGES}


def test_every_link_leads_somewhere(parsed):
    broken = []
    for path, page in parsed.items():
        for target in page.targets:
            if urlsplit(target).scheme or target.startswith("//"):
                continue
            address, anchor = urldefrag(target)
            file = (path.parent / unquote(urlsplit(address).path)).resolve() if address else path
            names = parsed[file].names if file in parsed else {""}
            if not file.is_file() or (anchor and unquote(anchor) not in names):
                broken.append(f"{path.relative_to(SITE)}: {target}")
    assert broken == []


def test_pictures_are_described(parsed):
    """In words: not by a file's name, which Sphinx puts where nothing is said. Ornaments have ""."""
    bare = [
        f"{path.relative_to(SITE)}: {source}"
        for path, page in parsed.items()
        for source, told in page.pictures
        if "_images" in source and (told is None or re.search(r"\.(png|svg)$", told))
    ]
    assert bare == []


# --- in a browser


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium")
    assert program, "chromium is missing; remedy, on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, address):
    """An empty page, and what goes wrong on it; nothing is loaded from elsewhere."""
    wrong = []
    with browser.new_context(base_url=address, viewport={"width": WIDTHS[-1], "height": 900}) as context:
        page = context.new_page()
        page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else wrong.append(asked.url))
        yield page
    assert wrong == []


@pytest.mark.parametrize("name", SEEN)
def test_a_page_fits_narrow_and_wide_windows(tab, name):
    tab.goto(name)
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        boxes = "[document.documentElement, document.querySelector('.bd-article-container')]"
        needed = max(tab.evaluate(f"{boxes}.map(x => innerWidth + x.scrollWidth - x.clientWidth)"))
        assert needed <= width, f"{name} is {needed} pixels wide in a window of {width}: {tab.evaluate(WIDEST)}"


# The innermost boxes that what is in them stands out of
WIDEST = """() => [...document.querySelectorAll('body *')].filter(x => {
  const style = getComputedStyle(x)
  return x.scrollWidth > x.clientWidth + 1 && style.overflowX === 'visible' && style.display !== 'inline'
}).map(x => x.tagName + '.' + x.className + ': ' + x.textContent.trim().slice(0, 60)).slice(-3)"""


@pytest.mark.parametrize("term", ["softcap", "rollout", "ragged", "dropout"])
def test_the_search_finds(tab, term):
    tab.goto(f"search.html?q={term}")
    found = tab.locator("#search-results li a[href]")
    found.first.wait_for()
    tab.wait_for_function("document.querySelector('#search-results .search-summary').textContent.includes('found')")
    tab.goto(found.first.get_attribute("href"))
    assert term in tab.locator("article").inner_text().lower()


def test_the_search_says_that_it_found_nothing(tab):
    tab.goto("search.html?q=qwertyuiop")
    tab.get_by_text("did not match any documents").wait_for()


def test_a_narrow_window_has_the_pages_in_a_menu(tab):
    tab.set_viewport_size({"width": WIDTHS[0], "height": 900})
    tab.goto("guide/attention.html")
    link = tab.locator("#pst-primary-sidebar-modal a, #pst-primary-sidebar a").get_by_text("Heads", exact=True)
    assert not link.is_visible()
    tab.locator("button.primary-toggle:visible").click()
    link.first.wait_for()
    link.first.click()
    tab.wait_for_url("**/guide/heads.html")


# Text that is shown and stands out from what is behind it by less than 4.5, on the scale of WCAG 2 from 1 to 21
FAINT = """() => {
  const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number)
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map(x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
  }
  const behind = x => {
    for (; x; x = x.parentElement) {
      const colour = parts(getComputedStyle(x).backgroundColor)
      if (colour.length === 3 || colour[3] === 1) return colour
    }
    return [255, 255, 255]
  }
  const faint = new Set()
  const walker = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const x = walker.currentNode.parentElement, style = getComputedStyle(x)
    if (!walker.currentNode.textContent.trim() || !x.getClientRects().length || style.visibility === 'hidden') continue
    if (x.closest('.headerlink, button, script, style')) continue
    const [a, b] = [light(parts(style.color)), light(behind(x))]
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    if (contrast < 4.5) faint.add(`${contrast.toFixed(1)} ${style.color} ${x.className}: ${x.textContent.slice(0, 40)}`)
  }
  return [...faint].slice(0, 9)
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", SHOWN)
def test_text_can_be_read(tab, name, scheme):
    tab.emulate_media(color_scheme=scheme)
    tab.goto(name)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", background)[0])
    assert red < 64 if scheme == "dark" else red > 192, background
    assert tab.evaluate(FAINT) == []

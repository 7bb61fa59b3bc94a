"""The site as a reader sees it: built, served and opened in a headless Chromium, on a desktop and on a phone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("furo")

DOCS = Path(__file__).parent.parent / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

BEYOND_THE_SCREEN = """
() => [...document.querySelectorAll("article *")].filter(element => {
    if (element.getBoundingClientRect().right <= window.innerWidth + 1) return false;
    for (let box = element.parentElement; box.tagName != "ARTICLE"; box = box.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return false;
    return true;
}).map(element => element.outerHTML.slice(0, 80))
"""

HEIGHTS_OF_PICTURES = """
() => [...document.querySelectorAll("article img:not([src*='_static'])")].map(
    image => [image.src, image.getBoundingClientRect().height]
)
"""

pytestmark = [pytest.mark.site, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome")]


class Site:
    """A built site, served on this machine."""

    def __init__(self, folder: Path, address: str) -> None:
        self.address = address
        self.pages = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))
        self.files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    def url(self, page: str) -> str:
        return f"{self.address}/{page}"


@dataclass(frozen=True)
class Visit:
    """What a browser found on a page, what it complained of, and what it did not show whole."""

    title: str
    ids: set[str]
    links: list[str]
    images: int
    missing_images: list[str]
    complaints: list[str]
    cut_off: list[str]
    low_pictures: list[str]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, doctrees = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("doctrees")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(doctrees), str(DOCS), str(folder)]
    subprocess.run(command, check=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(folder, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def visits(site: Site, browser: Any, viewport: dict[str, int], screenshots: Path | None) -> dict[str, Visit]:
    found = {}
    page = browser.new_page(viewport=viewport)
    complaints: list[str] = []

    def complain(what: str, really: bool) -> None:
        if really:
            complaints.append(what)

    page.on("console", lambda message: complain(message.text, message.type == "error"))
    page.on("pageerror", lambda error: complain(str(error), True))
    page.on("response", lambda answer: complain(answer.url, answer.status >= 400))
    page.on("request", lambda asked: complain(asked.url, not asked.url.startswith((site.address, "data:"))))
    for name in site.pages:
        complaints.clear()
        page.goto(site.url(name), wait_until="load")
        images = page.eval_on_selector_all("img", "all => all.map(image => [image.src, image.naturalWidth])")
        found[name] = Visit(
            title=page.title(),
            ids=set(page.eval_on_selector_all("[id]", "all => all.map(element => element.id)")),
            links=page.eval_on_selector_all("a[href]", "all => all.map(link => link.href)"),
            images=len(images),
            missing_images=[source for source, width in images if not width],
            complaints=list(complaints),
            cut_off=page.evaluate(BEYOND_THE_SCREEN),
            low_pictures=[source for source, height in page.evaluate(HEIGHTS_OF_PICTURES) if height < 180],
        )
        for scheme in ("light", "dark") if screenshots is not None else ():
            screenshots.mkdir(parents=True, exist_ok=True)
            page.emulate_media(color_scheme=scheme)
            picture = f"{name.removesuffix('.html').replace('/', '-')}-{viewport['width']}-{scheme}.png"
            page.screenshot(path=screenshots / picture, full_page=True)
        page.emulate_media(color_scheme="light")
    page.close()
    return found


@pytest.fixture(scope="module", params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def seen(site: Site, browser: Any, request: pytest.FixtureRequest) -> dict[str, Visit]:
    folder = request.config.getoption("--screenshots")
    return visits(site, browser, request.param, Path(folder) if folder else None)


def test_no_page_complains_or_asks_another_server(seen: dict[str, Visit]) -> None:
    assert {name: visit.complaints for name, visit in seen.items() if visit.complaints} == {}


def test_pictures_load(seen: dict[str, Visit]) -> None:
    assert {name: visit.missing_images for name, visit in seen.items() if visit.missing_images} == {}
    assert seen["explanation/how-it-works.html"].images > 0


def test_nothing_is_cut_off_by_the_screen(seen: dict[str, Visit]) -> None:
    assert {name: visit.cut_off for name, visit in seen.items() if visit.cut_off} == {}


def test_no_picture_is_too_small_to_read(seen: dict[str, Visit]) -> None:
    """A picture of several panels scrolls on a phone instead of shrinking."""
    assert {name: visit.low_pictures for name, visit in seen.items() if visit.low_pictures} == {}


def test_pictures_are_dark_where_the_page_is(site: Site, browser: Any) -> None:
    """By the choice of the system, and by the reader's own with the switch of the page."""
    page = browser.new_page(viewport=DESKTOP, color_scheme="dark")
    page.goto(site.url("index.html"))
    for chosen, expected in (("auto", "invert"), ("light", "none"), ("dark", "invert")):
        page.evaluate("theme => { document.body.dataset.theme = theme }", chosen)
        assert page.eval_on_selector("article img", "image => getComputedStyle(image).filter").startswith(expected)
    page.close()


def test_no_two_pages_have_one_title(seen: dict[str, Visit]) -> None:
    titles = [visit.title for visit in seen.values()]
    assert sorted(titles) == sorted(set(titles))


def test_no_link_is_broken(site: Site, seen: dict[str, Visit]) -> None:
    broken = []
    for name, visit in seen.items():
        for link in visit.links:
            if not link.startswith(site.address):
                assert link.startswith("https://"), f"{name} links to {link}"
                continue
            address, anchor = urldefrag(link)
            target = unquote(address.removeprefix(f"{site.address}/")) or "index.html"
            known = target in site.files and (not anchor or target not in seen or anchor in seen[target].ids)
            broken += [] if known else [(name, link)]
    assert broken == []


def test_every_page_can_be_reached_from_the_first(site: Site, seen: dict[str, Visit]) -> None:
    first = {urldefrag(link)[0] for link in seen["index.html"].links}
    made_by_sphinx = {"index.html", "search.html", "genindex.html", "py-modindex.html"}
    assert {page for page in site.pages if site.url(page) not in first} <= made_by_sphinx


def test_the_search_finds_a_word(site: Site, browser: Any) -> None:
    page = browser.new_page(viewport=DESKTOP)
    page.goto(site.url("index.html"))
    page.fill("input[name=q]", "cadence")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("ul.search a[href*='explanation/rules.html']", timeout=60_000)
    page.close()

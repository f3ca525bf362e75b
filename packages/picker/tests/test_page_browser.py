"""The web page in a real Chromium: readable by everybody, usable by keyboard alone, and safe whatever things are called."""

import asyncio
import os
import time
from pathlib import Path

import pytest
import pytest_asyncio
from hack.observability.chromium import HOW, find_chromium, running_chromium

from shunter.picker.core.service_levels import Level, LevelTally
from shunter.picker.core.tables import Account, Tally
from shunter.picker.shell.admin import Admin
from shunter.picker.shell.report import WorkerReport
from shunter.snapshot import Health, Pool, Rewrite, RewriteRule, Target

pytestmark = [pytest.mark.skipif(find_chromium() is None, reason=HOW), pytest.mark.asyncio(loop_scope="module")]

DEADLINE_MS = 30_000

# Where SHUNTER_SCREENSHOTS=1 paints what a thousand endpoints look like; e2e/test_page.py paints the rest.
IMAGES = Path(__file__).parents[3] / "docs" / "images"

HOSTILE = (
    "<img src=x onerror=\"document.title='hacked'\">",
    "\"><script>document.title='hacked'</script>",
    "javascript:document.title='hacked'",
    "</textarea><svg/onload=document.title='hacked'>",
    "{{7*7}} ${7*7} \u202egnp.exe\u0000\r\nevent: state\r\ndata: {}",
)

# The contrast of every text with what is behind it, by WCAG 2: colours are painted onto a pixel, so any notation will do.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const light = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((each) => {
      const part = each / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const style = getComputedStyle(element);
    if (!own || !element.checkVisibility() || !element.getClientRects().length || style.fontSize === "0px") continue;
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const [one, two] = [paint(...grounds), paint(...grounds, style.color)].sort((a, b) => b - a);
    found.push([(one + 0.05) / (two + 0.05), element.className || element.tagName, element.textContent.slice(0, 40)]);
  }
  return found;
}"""

# What a reader that cannot see needs of the page's elements.
NAMELESS = """() => [...document.querySelectorAll(
  "button, input, a[href], [role=region], [role=listbox], [role=option], dialog, img, section"
)].filter((element) => {
    if (element.tagName === "IMG") return element.getAttribute("alt") === null;
    const text = ["SECTION", "DIALOG"].includes(element.tagName) ? "" : element.textContent.trim();
    const labels = [...(element.labels ?? []), ...(element.ariaLabelledByElements ?? [])];
    return ![element.ariaLabel, text, ...labels.map((each) => each.textContent.trim())].some(Boolean);
  }).map((element) => element.outerHTML.slice(0, 100))"""

# Where the keyboard is, and whether that can be seen.
FOCUS = """() => {
  const at = document.activeElement;
  const outlined = [at, at.nextElementSibling].some((each) => each && getComputedStyle(each).outlineStyle !== "none");
  return [at.id || at.className || at.name || at.tagName, outlined];
}"""

SHIFTS = """() => {
  window.shifts = 0;
  const add = (list) => list.getEntries().forEach((each) => { window.shifts += each.value; });
  new PerformanceObserver(add).observe({ type: "layout-shift" });
}"""


def decision(n=0, **facts):
    """A decision as a worker tells it."""
    best = [
        {
            "endpoint": f"10.0.0.{at}:8000",
            "name": f"pod-{at}",
            "total": 1 / at,
            "cached": 0.5,
            "scores": {"queue-scorer": 1 / at},
        }
        for at in (1, 2)
    ]
    usual = {
        "ticket": (1 << 32) + n,
        "at_s": time.monotonic(),
        "request_id": f"req-{n}",
        "model": "m",
        "target_model": "m",
        "rule": None,
        "pool": None,
        "priority": 0,
        "prompt_tokens": 12,
        "profile": "default",
        "reason": "10.0.0.1:8000 won by 0.50 over 10.0.0.2:8000: queue-scorer +0.50.",
        "chosen": ["10.0.0.1:8000"],
        "candidates": 2,
        "narrowed": {"ready-filter": 3},
        "weights": {"queue-scorer": 2.0},
        "best": best,
        "others": {},
    }
    return usual | facts


def worker(**facts):
    usual = {"worker": "0", "address": "127.0.0.1:9002", "pid": 7, "seat": 0, "life": 1, "ready": True, "hindrances": ()}
    return WorkerReport(**(usual | {"streams": 3, "certificate_expires_s": None, "restarts": {"hung": 1}} | facts))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser():
    async with running_chromium(find_chromium()) as browser:
        yield browser


@pytest.fixture
def source(make_source):
    """A fleet with something of everything."""
    rows = (
        {"waiting": 3.0, "running": 8.0, "kv_usage": 0.9, "running_adapters": ("sql",)},
        {"waiting": 0.0, "running": 1.0, "kv_usage": 0.1},
        {"health": Health.UNREACHABLE, "reason": "connection refused"},
        {},
    )
    targets = (Target(model="v1", weight=9), Target(model="v2", weight=1))
    rewrites = (Rewrite(name="canary", pool="pool", rules=(RewriteRule(models=("chat",), targets=targets),)),)
    source = make_source(*rows, rewrites=rewrites, pools=(Pool(name="pool"),))
    rule = "InferenceModelRewrite default/canary"
    source.tallied = Tally(
        picks=100,
        rulings={(rule, "chat", "v1"): 80, (rule, "chat", "v2"): 20},
        by_endpoint={(0, 1): Account(picks=80, prefix_blocks=10, prefix_hits=9, in_flight=8), (1, 1): Account(picks=20)},
    )
    source.reported = [worker()]
    source.levels = [Level(name="chat", target=0.99, ttft_s=0.5)]
    source.tallied.levels = {"chat": LevelTally([200, 0, 0], [196, 0, 0])}
    source.decided = [decision(n) for n in range(5)]
    return source


@pytest_asyncio.fixture(loop_scope="module")
async def serve():
    admins = []

    async def serve(source, port=0):
        admin = Admin(source)
        admins.append(admin)
        return f"http://127.0.0.1:{await admin.start('127.0.0.1', port)}"

    yield serve
    for admin in admins:
        await admin.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def show(browser, serve):
    """Open the page upon a source; whatever the console or the policy complains of fails the test."""

    contexts = []

    async def show(source, *, width=1280, scheme="dark", url=None):
        context = await browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(DEADLINE_MS)
        page.complaints = []
        page.on("console", lambda message: message.type in {"error", "warning"} and page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        await page.goto(url or await serve(source))
        await page.locator("#heat .cell").first.wait_for()
        await page.locator("#decisions li button").first.wait_for()
        return page

    yield show
    for context in contexts:
        await context.close()


async def test_the_page_tells_what_the_picker_knows(show, source):
    page = await show(source)
    assert "pod-2 does not answer: connection refused." in await page.locator("#verdict").inner_text()
    assert "docs/runbook.md#endpointunscraped" in await page.locator("#verdict").inner_text()
    assert await page.locator("#heat .away .name").all_inner_texts() == ["pod-2"]
    assert "got 80 % of 100, is to get 90 %" in await page.locator("#models").inner_text()
    assert "sql on 1" in await page.locator("#models").inner_text()
    assert "✕ 98 %" in await page.locator("#levels").inner_text()
    assert "hung ×1" in await page.locator("#workers").inner_text()
    await page.get_by_text("In force, with every default").click()
    await page.locator("#config pre").get_by_text("plugins: []").wait_for()
    assert page.complaints == []


async def test_a_figure_changes_without_a_hand(show, source):
    page = await show(source)
    source.tallied = Tally(by_endpoint={(1, 1): Account(in_flight=5)})
    await page.locator("#heat .cell", has_text="pod-1").locator(".value", has_text="5").wait_for()


async def test_a_pace_is_never_below_zero_even_if_the_picker_begins_anew(show, source):
    page = await show(source)
    await page.locator("#measures label", has_text="picks").click()
    source.tallied = Tally(picks=20, by_endpoint={(1, 1): Account(picks=20)})  # pod-0 had 80
    await page.locator("#tile-picks small", has_text="20 in all").wait_for()
    assert await page.locator("#heat .cell", has_text="pod-0").locator(".value").inner_text() == "0/s"


async def test_why_is_one_click_away(show, source):
    page = await show(source)
    await page.locator("#decisions li button").last.click()
    dialog = page.locator("#why[open]")
    assert "pod-1 won by 0.50 over pod-2" in await dialog.inner_text()
    assert await dialog.locator("tbody tr").first.locator("td").all_inner_texts() == [
        "pod-1",
        "10.0.0.1:8000",
        "1.00",
        "50 %",
        "1.00",
    ]
    source.decided = [decision(0, outcome={"complete": True, "status": 200, "duration_s": 1.25, "first_token_s": 0.04})]
    await page.keyboard.press("Escape")
    await page.locator("#wanted").fill("req-0")
    await page.keyboard.press("Enter")
    assert "1.25 s" in await dialog.inner_text()
    await page.keyboard.press("Escape")
    await page.locator("#wanted").fill("never seen")
    await page.keyboard.press("Enter")
    await dialog.get_by_text("No decision of x-request-id never seen").wait_for()


async def test_hostile_names_are_text(show, make_source):
    endpoints = [{"name": name, "labels": {"llm-d.ai/role": name}, "engine": name} for name in HOSTILE]
    rows = [{"reason": name, "running_adapters": (name,), "health": Health.FAILED} for name in HOSTILE]
    rules = tuple(RewriteRule(models=(name,), targets=(Target(model=name),)) for name in HOSTILE)
    source = make_source(*rows, endpoints=endpoints, rewrites=(Rewrite(name=HOSTILE[0], pool="pool", rules=rules),))
    hostile = {"model": HOSTILE[0], "target_model": HOSTILE[1], "rule": HOSTILE[3], "reason": HOSTILE[4], "profile": HOSTILE[2]}
    source.decided = [decision(n, **hostile, request_id=name) for n, name in enumerate(HOSTILE)]
    source.reported = [worker(hindrances=HOSTILE, ready=False, address=HOSTILE[1], restarts={HOSTILE[0]: 1})]
    page = await show(source)
    await page.locator("#heat .cell").first.click()
    await page.get_by_text("As a table").click()
    for at in range(len(HOSTILE)):
        await page.locator("#decisions li button").nth(at).click()
        assert HOSTILE[0] in await page.locator("#why").inner_text()
        await page.keyboard.press("Escape")
    assert await page.locator("#decisions .model").first.inner_text() == HOSTILE[0]
    assert HOSTILE[0] in await page.locator("#models").inner_text()
    assert "hacked" not in (await page.title()).replace(HOSTILE[0], "")
    assert await page.locator("img").count() == 1
    assert await page.locator("script").count() == 1
    assert page.complaints == []


async def test_all_of_it_can_be_reached_and_used_by_keyboard(show, source):
    page = await show(source)
    seen = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        where = await page.evaluate(FOCUS)
        if where[0] == "BODY":
            break
        seen.append(where)
    assert [name for name, outlined in seen if not outlined] == []
    names = [name for name, _ in seen]
    assert {"skip", "wanted", "theme", "measure", "pause", "SUMMARY"} <= set(names)
    assert len([name for name in names if name.startswith("cell")]) == 1  # arrows do the rest
    await page.locator("#heat .cell").first.focus()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Enter")
    assert await page.locator("#heat [aria-selected=true] .name").inner_text() == "pod-1"
    assert await page.locator("#one h3").inner_text() == "pod-1"
    assert "running 1" in await page.locator("#heat .cell:focus").get_attribute("aria-label")
    await page.keyboard.press("Escape")
    assert await page.locator("#heat [aria-selected=true]").count() == 0
    await page.locator("#measures input").first.focus()
    await page.keyboard.press("ArrowRight")
    assert await page.locator("#measures input:checked").get_attribute("value") == "running"
    first = page.locator("#decisions li button").first
    await first.focus()
    await page.keyboard.press("Enter")
    await page.locator("#why[open]").wait_for()
    await page.keyboard.press("Escape")
    assert await first.evaluate("element => element === document.activeElement")


async def test_who_comes_and_goes_does_not_take_the_keyboard_away(show, source, make_source):
    page = await show(source)
    await page.locator("#heat .cell", has_text="pod-1").focus()
    source.view = make_source({}, {}, {}, {}, {}).view
    await page.locator("#heat .cell", has_text="pod-4").wait_for()
    assert await page.locator("#heat .cell:focus .name").inner_text() == "pod-1"


async def test_pausing_keeps_the_list_in_place(show, source, eventually):
    page = await show(source)
    await page.locator("#pause").click()
    assert await page.locator("#pause").get_attribute("aria-pressed") == "true"
    before = await page.locator("#decisions .model").all_inner_texts()
    source.decided = [decision(9, model="newcomer"), *source.decided]
    asked = source.asked
    await eventually(lambda: asyncio.sleep(0, source.asked >= asked + 2))
    assert await page.locator("#decisions .model").all_inner_texts() == before
    await page.locator("#pause").click()
    await page.locator("#decisions .model", has_text="newcomer").wait_for()


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_every_text_can_be_read(show, source, scheme):
    page = await show(source, scheme=scheme)
    await page.locator("#heat .cell").first.click()
    for at in range(7):  # every colour of the scale
        await page.locator("#measures label").nth(at).click()
        found = await page.evaluate(CONTRASTS)
        assert len(found) > 50
        assert [each for each in found if each[0] < 4.5] == []
    await page.locator("#decisions li button").first.click()
    assert [each for each in await page.evaluate(CONTRASTS) if each[0] < 4.5] == []


async def test_every_element_has_a_name(show, source):
    page = await show(source)
    await page.locator("#decisions li button").first.click()
    await page.get_by_role("dialog").wait_for()
    assert await page.evaluate(NAMELESS) == []
    ids = await page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    assert await page.evaluate("document.documentElement.lang") == "en"
    assert await page.locator("h1").count() == 1


async def test_what_is_read_aloud_is_what_became_of_it_and_not_each_figure(show, source, make_source):
    source.view = make_source({}, {}).view
    page = await show(source)
    said = page.locator("#said")
    before = await said.inner_text()
    assert before.startswith("All is well: 2 endpoints ready")
    source.tallied = Tally(picks=2000)
    await page.locator("#tile-picks small", has_text="2,000").wait_for()
    assert await said.inner_text() == before
    source.view = make_source({}, {"health": Health.UNREACHABLE}).view
    await said.get_by_text("pod-1 does not answer").wait_for(state="attached")


async def test_the_theme_follows_the_system_until_it_is_chosen_and_is_remembered(show, source):
    page = await show(source, scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate(ground)
    assert light != dark
    await page.locator("#theme").click()
    assert (await page.locator("#theme").inner_text(), await page.evaluate(ground)) == ("Theme: light", light)
    await page.reload()
    assert (await page.locator("#theme").inner_text(), await page.evaluate(ground)) == ("Theme: light", light)


@pytest.mark.parametrize("width", [390, 1280])
async def test_a_thousand_endpoints_fit_and_stay_where_they_are(show, make_source, dice, width):
    rows = [
        {"waiting": float(int(dice.expovariate(0.4))), "running": dice.randrange(40), "kv_usage": dice.random()}
        for _ in range(1000)
    ]
    rows[44] = rows[317] = {"health": Health.UNREACHABLE, "reason": "connection refused"}
    source = make_source(*rows, endpoints=[{"address": f"10.0.{n // 250}.{n % 250}"} for n in range(1000)])
    source.decided = [decision()]
    page = await show(source, width=width)
    await page.evaluate(SHIFTS)
    await page.locator("#measures label").first.click()
    for step in range(1, 4):
        source.tallied = Tally(picks=1000 * step, by_endpoint={(0, 1): Account(picks=1000 * step, in_flight=step)})
        await page.locator("#tile-flight b", has_text=str(step)).wait_for()
    assert await page.locator("#heat .cell").count() == 1000
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await page.evaluate("window.shifts") < 0.01
    await page.locator("#heat .cell").nth(500).click()
    assert await page.locator("#one h3").inner_text() == "pod-500"
    if os.environ.get("SHUNTER_SCREENSHOTS") and width > 1000:
        await page.locator("#fleet").screenshot(path=IMAGES / "page-1000.png")


async def test_a_picker_that_is_gone_is_said_to_be_and_found_again(show, serve, source):
    admin = Admin(source)
    port = await admin.start("127.0.0.1", 0)
    page = await show(source, url=f"http://127.0.0.1:{port}")
    await admin.stop()
    await page.locator("#verdict.critical strong", has_text="The picker does not answer").wait_for()
    assert (await page.title()).startswith("✕")
    await serve(source, port)
    await page.locator("#connection", has_text="live").wait_for()
    await page.locator("#verdict strong", has_text="pod-2 does not answer").wait_for()

"""The pages as a browser shows them: headless Chromium."""

import json
import re
import subprocess
from html import unescape

import pytest
import yaml
from pages import CHROMIUM, Page, check_alone

from pyro_vae.cli import main

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
LOOK = """<script>addEventListener("load", () => {
  const seen = {
    images: [...document.images].map(i => i.complete && i.naturalWidth > 0 && i.width > 0),
    wide: document.documentElement.scrollWidth, inner: innerWidth,
    outside: [...document.querySelectorAll("h1, h2, p, img, .tile, .tile b, .scroll, pre")].filter(e => {
      const style = getComputedStyle(e), spills = style.overflowX == "visible" && style.display == "block";
      return e.getBoundingClientRect().right > innerWidth || (spills && e.scrollWidth > e.clientWidth + 1);
    }).map(e => e.outerHTML.slice(0, 80)),
    requested: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    ink: getComputedStyle(document.body).color, paper: getComputedStyle(document.body).backgroundColor,
    numbers: [...document.querySelectorAll("td.number")].every(e => getComputedStyle(e).textAlign == "right"),
  };
  document.documentElement.setAttribute("data-seen", JSON.stringify(seen));
});</script>"""


def trained(folder, name, **model):
    config = {
        "data": {"name": "mnist5k", "binarization": "threshold", "limit": 20},
        "model": {"class_path": "pyro_vae.models.VAE", "init_args": {"latent_dim": 2, "hidden_dims": [8]} | model},
        "guide": {"class_path": "pyro_vae.guides.GaussianGuide", "init_args": {"hidden_dims": [8]}},
        "fit": {"epochs": 2, "batch_size": 10, "device": "cpu", "compile": "off"},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(folder / f"{name}.yaml"), "--trust", "--out", str(folder / name)]) == 0
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    runs = [trained(folder, "one"), trained(folder, "a-run-with-a-rather-long-name", hidden_dims=[16])]
    assert main(["report", str(runs[0]), "--particles", "10"]) == 0
    assert main(["compare", *map(str, runs), "--particles", "10", "--out", str(folder)]) == 0
    return folder


def seen(file, tmp_path, *options, width=1200):
    """What the browser has made of a page, and what a script that looks around in it has found."""
    looked = tmp_path / file.name
    looked.write_text(file.read_text().replace("</body>", LOOK + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--virtual-time-budget=2000", *options, "--dump-dom", looked.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    return Page(dom.replace(LOOK, "")), found


def check(page, found, images):
    check_alone(page)
    assert len(found["images"]) == images and all(found["images"])
    assert found["wide"] <= found["inner"] and found["outside"] == [] and found["requested"] == [] and found["numbers"]


def test_a_report(folder, tmp_path):
    page, found = seen(folder / "one" / "report.html", tmp_path)
    said = json.loads((folder / "one" / "report.json").read_text())
    check(page, found, len(said["figures"]))
    sections = ["What was measured", "Likelihood", "Latents", "Reconstructions", "Samples", "Traversals", "Training"]
    assert page.titles == [*sections, "Configuration", "Commands", "Left out"]
    measured = said["evaluations"]["test"]
    numbers = [
        f"{measured[mean]:.2f} ± {measured[error]:.2f}" for mean, error in (("log_likelihood", "standard_error"),)
    ]
    numbers += [f"{measured['bits_per_dim']:.4f}", f"{measured['kl']['z']:.2f}", f"{said['parameters']['all']:,}"]
    assert all(number in page.text for number in numbers)
    assert said["commands"][1] in page.text


def test_a_comparison(folder, tmp_path):
    page, found = seen(folder / "comparison.html", tmp_path)
    said = json.loads((folder / "comparison.json").read_text())
    check(page, found, 0)
    assert page.titles[:4] == ["Differences from one", "Seeds", "Likelihood", "KL by latent site"]
    for i, run in enumerate(said["runs"]):
        mean = page.row("log-likelihood (importance-weighted bound), nats", table=2)[i]
        assert f"{run['log_likelihood']:.2f} ± {run['standard_error']:.2f}" in mean
        assert page.row(run["name"], table=3) == [f"{run['kl']['z']:.2f}"] * 2


def test_the_script_finds_what_is_wrong(tmp_path):
    (tmp_path / "bad.html").write_text(
        '<!DOCTYPE html><html><body><p id="a">x</p><img alt="none" src="data:image/png;base64,AAAA">'
        '<img alt="far" src="http://127.0.0.1:9/far.png"><div class="tile" style="width: 50px">'
        '<b style="display: block; white-space: nowrap">-216.43 and more</b></div>'
        '<pre style="width: 3000px">wide</pre></body></html>'
    )
    page, found = seen(tmp_path / "bad.html", tmp_path)
    assert found["images"] == [False, False] and found["wide"] > found["inner"]
    assert [re.match(r"<(\w+)", each)[1] for each in found["outside"]] == ["div", "b", "pre"]
    assert found["requested"] == ["http://127.0.0.1:9/far.png"]
    with pytest.raises(AssertionError, match=r"far\.png"):
        check_alone(page)


def test_dark_and_narrow(folder, tmp_path):
    (tmp_path / "light").mkdir()
    _, light = seen(folder / "one" / "report.html", tmp_path / "light")
    (tmp_path / "dark").mkdir()
    options = "--blink-settings=preferredColorScheme=0"
    page, dark = seen(folder / "one" / "report.html", tmp_path / "dark", options, width=600)
    check(page, dark, len(page.images))
    assert brightness(light["paper"]) > 200 and brightness(light["ink"]) < 60
    assert brightness(dark["paper"]) < 60 and brightness(dark["ink"]) > 200


def brightness(colour):
    return sum(int(number) for number in re.findall(r"\d+", colour)[:3]) / 3

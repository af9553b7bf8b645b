"""What a page holds, read with the standard library; of a file or of what a browser made of it."""

import shutil
from html.parser import HTMLParser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Sections' titles, tables as rows of text, images, references; raises where tags do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.titles, self.tables, self.images, self.references, self.ids = [], [], [], [], [], []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.titles.append("")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "img":
            self.images.append(values)
        if "id" in values:
            self.ids.append(values["id"])
        self.references += [values[name] for name in ("src", "href", "srcset", "action") if name in values]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if "style" in self.open or "script" in self.open:
            assert "@import" not in data and "url(" not in data
            return
        self.text += data
        if "h2" in self.open:
            self.titles[-1] += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def row(self, name, table=None):
        """The cells of the row that begins with a name."""
        tables = self.tables if table is None else [self.tables[table]]
        return next(row[1:] for rows in tables for row in rows if row and row[0] == name)


def check_alone(page):
    """Nothing is asked of the network or of other files; every link is to a place within the page."""
    assert page.references
    for reference in page.references:
        assert reference.startswith("data:") or (reference.startswith("#") and reference[1:] in page.ids), reference
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    assert len(set(page.ids)) == len(page.ids)

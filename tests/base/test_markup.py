"""What is put into an element is text, unless it is markup."""

from html.parser import HTMLParser

import pytest

from flaxyolo.base.markup import Markup, element, joined


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inside = element("b", "<i>", Markup("<i></i>"))
    assert inside == "<b>&lt;i&gt;<i></i></b>"
    assert element("p", inside, title='"><x>') == (
        '<p title="&quot;&gt;&lt;x&gt;"><b>&lt;i&gt;<i></i></b></p>'
    )


def test_nothing_lists_and_numbers():
    assert element("p", None, ["a", ("b", 3)]) == "<p>ab3</p>"
    assert joined("a", None, element("br")) == "a<br>"
    told = element("line", x1=1.0, y1=0.126, class_="a", data_told="b", hidden=True, id=None)
    assert told == '<line x1="1" y1="0.13" class="a" data-told="b" hidden></line>'
    assert element("meta", name="n", http_equiv="x") == '<meta name="n" http-equiv="x">'


@pytest.mark.parametrize("text", ["\0", "]]>", "<!--", "&amp;", "'\"", "ß 螺丝"])
def test_any_text_is_read_back_as_it_was(text):
    found = []
    parser = HTMLParser()
    parser.handle_data = found.append
    parser.feed(element("p", text))
    parser.close()
    assert "".join(found) == text.replace("\0", "\N{REPLACEMENT CHARACTER}")

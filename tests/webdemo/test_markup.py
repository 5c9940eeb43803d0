from blip2.webdemo.markup import note, table
from blip2.webdemo.service import Scored


def test_what_was_written_cannot_become_part_of_the_page():
    assert "<script>" not in table([Scored("<script>alert(1)</script>", {"<b>": (0.5, 0.5)})], "<i>") + note("<script>")
    assert "&lt;script&gt;" in table([Scored("<script>", {})])


def test_bars_are_as_long_as_their_share_and_stay_in_their_cell():
    shown = table(
        [Scored("a", {"ITM": (0.25, 0.25)}), Scored("b", {"ITM": (7.0, 7.0)}), Scored("c", {"ITM": (1, 0.0)})]
    )
    assert "width: 25.0%" in shown and "width: 100.0%" in shown
    assert shown.count("class='bar'") == 2
    assert "<td class='score'>0.250<" in shown

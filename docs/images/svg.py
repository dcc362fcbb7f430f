"""Makes a picture of a screen with SGR sequences: `tmux capture-pane -p -e`, or a file of tcp-status/tests/screens.

    python3 docs/images/svg.py SCREEN OUT.svg

It follows the theme of the page that it is on.
"""

import html
import re
import sys

WIDE, HIGH, MARGIN = 8.4, 17, 14
# Of a terminal: on a dark page, and on a light one.
COLOURS = {"text": ("#d0d7de", "#1f2328"), "red": ("#ff7b72", "#cf222e"), "yellow": ("#d29922", "#d4a72c"),
           "black": ("#010409", "#010409"), "dim": ("#6e7681", "#6e7781"),
           "page": ("#0d1117", "#f6f8fa")}
BY_CODE = {0: "black", 1: "red", 3: "yellow"}
PLAIN = {"fg": "text", "bg": "page", "bold": False, "dim": False, "underlined": False, "reversed": False}


def styled(style, codes):
    # The first of 256 colours are the same.
    codes = re.sub("([34])8;5;([0-7])", r"\1\2", codes)
    for code in (int(code or 0) for code in codes.split(";")):
        if code == 0:
            style = PLAIN
        elif code in (1, 2, 4, 7):
            style = style | {{1: "bold", 2: "dim", 4: "underlined", 7: "reversed"}[code]: True}
        elif code == 39:
            style = style | {"fg": "text"}
        elif code == 49:
            style = style | {"bg": "page"}
        else:
            style = style | {"fg" if code < 40 else "bg": BY_CODE[code % 10]}
    return style


def runs(screen):
    """Parts of lines: line, column, text, style."""
    y, x, style = 0, 0, PLAIN
    for codes, text in re.findall(r"(?:\x1b\[([\d;]*)m)?(\n|[^\x1b\n]*)", screen):
        style = styled(style, codes) if codes else style
        if text == "\n":
            y, x = y + 1, 0
        elif text:
            yield y, x, text, style
            x += len(text)


def svg(screen):
    lines = screen.rstrip("\n").count("\n") + 1
    columns = max(x + len(text) for _, x, text, _ in runs(screen))
    css = lambda page: "".join(f".{name}{{fill:{both[page]}}}" for name, both in COLOURS.items())
    css = f"{css(0)}@media (prefers-color-scheme:light){{{css(1)}}}"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * WIDE + 2 * MARGIN:g} '
           f'{lines * HIGH + 2 * MARGIN}" role="img"><title>tcp-status top</title><style>{css}</style>'
           '<rect width="100%" height="100%" rx="6" class="page"/>'
           '<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" '
           'font-size="13.5" xml:space="preserve">']
    for y, x, text, style in runs(screen):
        fg, bg = style["fg"], style["bg"]
        if style["dim"] and fg == "text":
            fg = "dim"
        if style["reversed"]:
            fg, bg = bg, fg
        left, top, width = MARGIN + x * WIDE, MARGIN + y * HIGH, len(text) * WIDE
        if bg != "page":
            out.append(f'<rect x="{left:g}" y="{top}" width="{width:g}" height="{HIGH}" class="{bg}"/>')
        if style["underlined"]:
            out.append(f'<rect x="{left:g}" y="{top + 15}" width="{width:g}" height="1" class="{fg}"/>')
        bold = ' font-weight="bold"' if style["bold"] else ""
        # In short pieces what may come from another font, whose glyphs have a width of their own.
        for word in re.finditer(r"[!-~]+( [!-~]+)*|[^ -~]{1,4}", text):
            out.append(f'<text x="{left + word.start() * WIDE:g}" y="{top + 12.5:g}" '
                       f'textLength="{len(word[0]) * WIDE:g}" class="{fg}"{bold}>'
                       f'{html.escape(word[0], quote=False)}</text>')
    return "\n".join([*out, "</g></svg>", ""])


if __name__ == "__main__":
    with open(sys.argv[1]) as screen, open(sys.argv[2], "w") as out:
        out.write(svg(screen.read()))

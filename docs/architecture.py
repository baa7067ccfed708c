"""Draw docs/architecture.svg: the rooms of `service/` and who imports whom.

    python docs/architecture.py

Standard library only. The rooms, their places and what stands outside are the tables below. The arrows are read from
the source: A → B where a module of A imports one of B. An arrow that follows from others (A → B → C implies A → C) is
left out, so that the picture shows the order of the rooms and not every import.
"""

import ast
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
SERVICE = HERE.parent / "service"
PICTURE = HERE / "architecture.svg"

WIDTH, HEIGHT, BOX_WIDTH, BOX_HEIGHT = 1040, 910, 290, 56
LEFT, MIDDLE, RIGHT = 175, 520, 865

COMMANDS = "__main__ entry cli check key_permissions reload"
ROOMS = {
    # name: (centre x, top y, what it is, modules or packages directly below service/)
    "process": (MIDDLE, 20, "command line, server, signals, reload", f"{COMMANDS} server metrics_port ending process"),
    "app, wiring": (MIDDLE, 110, "build every part and join them", "app wiring"),
    "web": (MIDDLE, 200, "the HTTP edge, the fast path, OpenAPI", "web"),
    "gateway": (MIDDLE, 290, "the joined parts, as web reads them", "gateway"),
    "kubernetes": (MIDDLE, 380, "ServiceAccounts, by TokenReview", "kubernetes"),
    "store": (MIDDLE, 470, "the shared state in Redis; Lua scripts", "store"),
    "exchange": (MIDDLE, 560, "signed calls, request weight, cooldowns", "exchange"),
    "bounded_http": (MIDDLE, 650, "HTTP answers, read within bounds", "bounded_http"),
    "cache": (MIDDLE, 740, "one snapshot per account, fresh enough", "cache"),
    "fleet": (MIDDLE, 830, "what replicas agree on, and the rules", "fleet"),
    "access": (LEFT, 560, "clients, grants, limits, waiting rooms", "access"),
    "account": (LEFT, 830, "the snapshot, and how views are cut", "account"),
}
SHARED = ("telemetry", "settings", "settings_file", "addresses", "files", "tls", "clock")
"""Every room but `account` may import these: they get one box, and no arrows."""

OUTSIDE = {
    # name: (top y, what passes, the room that alone knows it)
    "callers": (200, "HTTP, litestar and granian", "web"),
    "API server": (380, "TokenReview, httpx", "kubernetes"),
    "Redis": (470, "EVALSHA and pub/sub, redis-py", "store"),
    "Binance COIN-M": (560, "signed GETs, httpx", "exchange"),
}


def room_of(module: str) -> str | None:
    """The room of a module named as in `import`; `None`: shared, or no room's."""
    part = module.split(".")[1] if "." in module else ""
    return next((name for name, (*_, parts) in ROOMS.items() if part in parts.split()), None)


def imports() -> set[tuple[str, str]]:
    """Who imports whom, by room."""
    found = set[tuple[str, str]]()
    for file in sorted(SERVICE.rglob("*.py")):
        own = room_of("service." + ".".join(file.relative_to(SERVICE).with_suffix("").parts))
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = list[str]()
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "service":
                names = [f"{node.module}.{each.name}" for each in node.names]
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names if each.name.startswith("service.")]
            for other in map(room_of, names):
                if own and other and own != other:
                    found.add((own, other))
    return found


def reduced(arrows: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that don't follow from others; there are no rings."""

    def reaches(start: str, end: str, *, directly: bool) -> bool:
        steps = [second for first, second in arrows if first == start and (directly or second != end)]
        return any(step == end or reaches(step, end, directly=True) for step in steps)

    return sorted((first, second) for first, second in arrows if not reaches(first, second, directly=False))


def box(x: int, y: int, title: str, words: str, kind: str = "room") -> list[str]:
    return [
        f'<rect class="{kind}" x="{x - BOX_WIDTH // 2}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>',
        f'<text class="title" x="{x}" y="{y + 23}">{escape(title)}</text>',
        f'<text x="{x}" y="{y + 43}">{escape(words)}</text>',
    ]


def arrow(first: str, second: str) -> str:
    """From the bottom of one box to the top of another, which stands below it."""
    (x1, y1, *_), (x2, y2, *_) = ROOMS[first], ROOMS[second]
    return f'<path class="import" d="M{x1} {y1 + BOX_HEIGHT} L{x2} {y2 - 4}"/>'


def svg() -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">',
        "<title>The rooms of the gateway, and who imports whom</title>",
        "<style>",
        "text { font: 13px sans-serif; text-anchor: middle; fill: #222 } .title { font-weight: bold; font-size: 15px }",
        "rect { stroke: #445; fill: #eef3fb } .shared { fill: #f2f2f2 }",
        ".outside { fill: #fff6e5; stroke-dasharray: 5 3 }",
        "path { fill: none; stroke: #445; stroke-width: 1.5 } .import { marker-end: url(#head) }",
        ".talk { stroke: #a60; stroke-dasharray: 5 3; marker-start: url(#talks); marker-end: url(#talks) }",
        "</style>",
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" style="fill: {colour}; stroke: none"/></marker>'
            for name, colour in (("head", "#445"), ("talks", "#a60"))
        ),
        "</defs>",
        f'<rect x="0" y="0" width="{WIDTH}" height="{HEIGHT}" style="fill: #fff; stroke: none"/>',
    ]
    lines += [arrow(first, second) for first, second in reduced(imports())]
    for name, (x, y, words, _) in ROOMS.items():
        lines += box(x, y, name, words)
    for name, (y, words, room) in OUTSIDE.items():
        lines += box(RIGHT, y, name, words, "outside")
        x, middle = ROOMS[room][0] + BOX_WIDTH // 2 + 4, y + BOX_HEIGHT // 2
        lines.append(f'<path class="talk" d="M{x} {middle} L{RIGHT - BOX_WIDTH // 2 - 4} {middle}"/>')
    lines += box(LEFT, 20, "shared", "imported by every room but account", "shared")
    lines += [f'<text x="{LEFT}" y="{98 + 18 * place}">{name}</text>' for place, name in enumerate(SHARED)]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(svg(), "utf-8")

"""The page of an OpenAPI document, which needs neither scripts nor anyone else's files."""

from typing import Any

from flaxyolo.base.markup import Markup, element

EXAMPLES = (
    "curl -F file=@image.jpg -F min_score=0.5 {base}/predict",
    "curl -H 'Content-Type: image/jpeg' --data-binary @image.jpg {base}/predict",
)


def api_page(document: dict[str, Any], base: str) -> str:
    """Every path with its parameters, body and responses, as HTML; `base` is the server's URL."""
    told = document["info"]
    schemas = document.get("components", {}).get("schemas", {})
    operations = [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"API of {told['title']}"),
        element("link", rel="icon", href="data:,"),
        element("link", rel="stylesheet", href="page.css"),
    )
    main = element(
        "main",
        element("h1", f"API of {told['title']} {told['version']}"),
        element("p", told["description"]),
        element("p", element("a", "Try it with an image", href="./"), " or read ",
                element("a", "openapi.json", href="openapi.json"), "."),
        element("pre", "\n".join(line.format(base=base) for line in EXAMPLES)),
        operations,
        element("h2", "What is sent back"),
        [_schema(name, schema) for name, schema in schemas.items()],
    )  # fmt: skip
    return "<!doctype html>\n" + element("html", head, element("body", main), lang="en")


def _operation(method: str, path: str, operation: dict[str, Any]) -> Markup:
    body = operation.get("requestBody", {}).get("content", {})
    rows = [
        (each["name"], _kind(each["schema"]), each.get("description", ""))
        for each in operation.get("parameters", [])
    ]
    answers = [
        (status, _answer(one), one["description"]) for status, one in operation["responses"].items()
    ]
    return element(
        "section",
        element("h2", element("code", f"{method.upper()} {path}")),
        element("p", operation.get("description", "")),
        _table("Parameter", rows),
        _table("Body", [(kind, _kind(one["schema"]), "") for kind, one in body.items()]),
        _table("Status", answers),
        class_="card",
    )


def _schema(name: str, schema: dict[str, Any]) -> Markup:
    rows = [
        (key, _kind(one), one.get("description", ""))
        for key, one in schema.get("properties", {}).items()
    ]
    about = element("p", schema.get("description", ""))
    return element("section", element("h3", name), about, _table("Field", rows), class_="card")


def _table(heading: str, rows: list[tuple[str, str, str]]) -> Markup | None:
    if not rows:
        return None
    told = any(about for *_, about in rows)
    lines = [
        element("tr", element("td", element("code", name)), element("td", kind),
                element("td", about) if told else None)
        for name, kind, about in rows
    ]  # fmt: skip
    headings = (heading, "Type", "Meaning") if told else (heading, "Type")
    head = element("tr", [element("th", one) for one in headings])
    return element("div", element("table", element("thead", head), element("tbody", lines)),
                   class_="wide")  # fmt: skip


def _answer(response: dict[str, Any]) -> str:
    return ", ".join(_kind(one["schema"]) for one in response.get("content", {}).values())


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words, such as `list of Detection` or `number, 0 to 1, optional`."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        kinds = [_kind(one) for one in schema["anyOf"]]
        return ", ".join("optional" if kind == "null" else kind for kind in kinds)
    if "properties" in schema:
        needed = schema.get("required", [])
        return "; ".join(
            f"{name}: {_kind(one)}{'' if name in needed else ', optional'}"
            for name, one in schema["properties"].items()
        )
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"{len(schema['prefixItems'])} {_kind(schema['prefixItems'][0])}s"
        return f"list of {_kind(schema['items'])}"
    if schema.get("format") == "binary":
        return "bytes of an image"
    kind = schema.get("type", "any")
    low, high = schema.get("minimum"), schema.get("maximum")
    return kind if low is None else f"{kind}, {low:g} to {high:g}"

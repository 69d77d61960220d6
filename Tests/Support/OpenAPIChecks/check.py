"""check.py URL KEY: the description at URL/openapi.json is OpenAPI 3.1, every example fits its schema, every path that it names exists."""

import json
import sys
import urllib.error
import urllib.request

import jsonschema
from openapi_spec_validator import OpenAPIV31SpecValidator

url, key = sys.argv[1:]
document = json.load(urllib.request.urlopen(url + "/openapi.json"))
errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in OpenAPIV31SpecValidator(document).iter_errors()]
examples = 0


def resolve(value):
    while isinstance(value, dict) and "$ref" in value:
        place = document
        for step in value["$ref"].removeprefix("#/").split("/"):
            place = place[step.replace("~1", "/").replace("~0", "~")]
        value = place
    return value


def check(place, schema, example):
    global examples
    examples += 1
    # The whole document stands beside the schema, for its references.
    validator = jsonschema.Draft202012Validator(
        {"components": document["components"], "allOf": [schema]}, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    errors.extend(f"{place}: {'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(example))


def walk(value, place):
    value = resolve(value)
    if isinstance(value, list):
        for index, item in enumerate(value):
            walk(item, f"{place}/{index}")
    elif isinstance(value, dict):
        if "schema" in value:
            if "example" in value:
                check(place, value["schema"], value["example"])
            for name, example in value.get("examples", {}).items():
                check(f"{place}/examples/{name}", value["schema"], resolve(example)["value"])
        for name, item in value.items():
            if name not in ("schema", "schemas", "example", "examples", "value"):
                walk(item, f"{place}/{name}")


walk(document["paths"], "paths")

# JSON that goes in is shown by an example.
for path, item in document["paths"].items():
    for method, operation in item.items():
        for media, content in resolve(operation.get("requestBody", {})).get("content", {}).items():
            if media == "application/json" and not content.get("examples"):
                errors.append(f"{method} {path}: {media} has no example")
        # An operation that is described exists: the method is known at its path.
        request = urllib.request.Request(url + path.replace("{", "").replace("}", ""), method="OPTIONS", headers={"Authorization": f"Bearer {key}"})
        try:
            urllib.request.urlopen(request)
            allowed = ""
        except urllib.error.HTTPError as error:
            allowed = error.headers.get("Allow", "")
        if method.upper() not in allowed.split(", "):
            errors.append(f"{method} {path} is described, but the service allows '{allowed}'")

for error in errors:
    print(error)
print(f"{len(document['paths'])} paths, {examples} examples, {len(errors)} errors")
sys.exit(1 if errors or examples == 0 else 0)

"""Break bootstraps in random places, and compare what envoyconf's schema says with what the real Envoy says.

A mistake that the schema names is one that Envoy refuses, and where Envoy refuses a message as such (an unknown field, a value
of another kind, a constraint of its API), the schema says so too. What only an extension objects to is Envoy's alone to say.
"""

import argparse
import contextlib
import copy
import random
import re
import sys
from pathlib import Path

from shunter.envoyconf import EnvoyRefusedError, IntentError, bootstrap, load_intent, render
from shunter.envoyconf.core.documents import spell
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.schema import envoy_schema, problems
from shunter.envoyconf.core.schema.shapes import Kind
from shunter.envoyconf.core.versions import DEFAULT_VERSION, parse_version
from shunter.envoyconf.shell import envoy

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"
GOLDEN = Path(__file__).resolve().parents[1] / "packages" / "envoyconf" / "tests" / "golden"

# What Envoy says when a message is wrong in itself, whoever it is for.
IN_ITSELF = re.compile(
    r"no such field|has unknown fields|Proto constraint validation failed|invalid (value|JSON)|Unable to parse JSON as proto"
    r"|oneof|could not find @type|Using deprecated"
)
WORDS = ["", "a", "7", "-1", "1s", "0s", "1.5", "true", "EDS", "x\n", "type.googleapis.com/google.protobuf.Empty", "é" * 200]
NUMBERS = [0, 1, -1, 0.5, 99, 65535, 65536, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 31)]
OTHERS = [None, True, False, [], {}, [None], [{}], {"a": 1}]


def places(value, path=()):
    """Yield the path of everything in a value."""
    if path:
        yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*path, key))


def at(value, path):
    for step in path:
        value = value[step]
    return value


def shape_at(resource, path, schema):
    """Return the shape of the message at a path, None if there is a value or a map."""
    shape, field = schema.shape(BOOTSTRAP), None
    for place, step in enumerate(path):
        if isinstance(step, int):
            continue
        if field is not None and field.values:
            field = field.values
        elif shape is None or (field := shape.fields.get(step)) is None:
            return None
        shape = None
        if field.kind is Kind.MESSAGE and not field.values:
            name = field.message.full_name
            if name == "google.protobuf.Any":
                here = at(resource, path[: place + 1])
                name = here.get("@type", "").rpartition("/")[2] if isinstance(here, dict) else ""
            shape = schema.shape(name) if name and not name.startswith("google.protobuf") else None
    return None if field is not None and field.repeated and isinstance(path[-1], str) and not field.values else shape


def break_somewhere(dice, resource, schema):
    """Return the resource with one thing changed, and what was done, in words."""
    broken = copy.deepcopy(resource)
    path = dice.choice(list(places(broken)))
    parent, key = at(broken, path[:-1]), path[-1]
    kind = dice.choice(["value", "value", "delete", "rename", "add", "add"])
    if kind == "delete":
        del parent[key]
    elif kind == "rename" and isinstance(key, str) and key != "@type":
        parent[dice.choice([key + "s", key.title(), "x"])] = parent.pop(key)
    elif kind == "add" and isinstance(at(broken, path), dict) and (shape := shape_at(broken, path, schema)):
        field = shape.fields[dice.choice(shape.names)] if shape.names else None
        if field is None:
            return break_somewhere(dice, resource, schema)
        at(broken, path)[field.name] = some(dice, field, schema)
        path = (*path, field.name)
    else:
        kind = "value"
        parent[key] = dice.choice([dice.choice(WORDS), dice.choice(NUMBERS), dice.choice(OTHERS)])
    return broken, f"{kind} {spell(path)}"


def some(dice, field, schema, depth=0):
    """Return a value that may well be right."""
    if field.values:
        return {dice.choice(["a", "", "x-b"]): some(dice, field.values, schema, depth + 1)}
    value = some_one(dice, field, schema, depth)
    return [value] * dice.choice([0, 1, 1, 2]) if field.repeated else value


def some_one(dice, field, schema, depth):
    match field.kind:
        case Kind.STRING:
            return dice.choice(["", "a", "x-b", "a b", "\n"])
        case Kind.BYTES:
            return dice.choice(["", "AAAA", "?"])
        case Kind.BOOL:
            return dice.choice([True, False])
        case Kind.INTEGER | Kind.NUMBER:
            return dice.choice([0, 1, 2, 7, 100, 200, 1000, 65536, "5", -1])
        case Kind.ENUM:
            return dice.choice([*field.choices, 0, 99])
    name = field.message.full_name
    if name == "google.protobuf.Duration":
        return dice.choice(["0s", "1s", "0.001s", "-1s", "100000s", {}, {"seconds": 1}, {"nanos": 5}])
    if name.startswith("google.protobuf.") and name.endswith("Value") and name != "google.protobuf.Value":
        wrapped = schema.shape(name).fields.get("value")
        return some_one(dice, wrapped, schema, depth) if wrapped else []
    shape = schema.shape(name)
    if name.startswith("google.protobuf.") or depth > 2:
        return {}
    chosen = dice.sample(shape.names, min(len(shape.names), dice.choice([0, 1, 2])))
    for members in shape.alternatives.values():
        chosen = [each for each in chosen if each not in members] + ([dice.choice(members)] if dice.random() < 0.7 else [])
    return {each: some(dice, shape.fields[each], schema, depth + 1) for each in dict.fromkeys(chosen)}


def compare(dice, resources, binary, version=DEFAULT_VERSION):
    """Break one resource; return what was done, what the schema and Envoy say, and whether they agree."""
    schema = envoy_schema()
    broken, done = break_somewhere(dice, dice.choice(resources), schema)
    named = [f"{spell(each.path)}: {each}" for each in problems(schema, broken, BOOTSTRAP, version)]
    try:
        envoy.validate(render(broken, "json"), binary)
        refused = ""
    except EnvoyRefusedError as error:
        refused = str(error)
    # An extension without its configuration has an empty one; what that lacks knows only who knows it by its name.
    left_alone = done.startswith("delete ") and done.endswith(".typed_config")
    agree = bool(refused) if named else left_alone or not IN_ITSELF.search(refused)
    return done, named, refused, agree


def bootstraps(version=DEFAULT_VERSION):
    """Return what is generated from the golden intents, as far as that version can have it."""
    found = []
    for path in sorted(GOLDEN.glob("*.intent.yaml")):
        with contextlib.suppress(IntentError):
            found.append(bootstrap(load_intent(path.read_text()), Settings(envoy_version=version)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)))
    parser.add_argument("--version", default=envoy.VERSION, help="of Envoy")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    version = parse_version(arguments.version)
    dice, resources, binary = random.Random(arguments.seed), bootstraps(version), envoy.ensure(arguments.version)
    seen = {"both": 0, "neither": 0, "Envoy alone": 0}
    wrong = 0
    for _ in range(arguments.count):
        done, named, refused, agree = compare(dice, resources, binary, version)
        seen["both" if named and refused else "Envoy alone" if refused else "neither"] += 1
        if not agree:
            wrong += 1
            print(f"{done}\n  schema: {named[:3]}\n  Envoy: {refused[:300] or 'accepts it'}", flush=True)
    print(f"{arguments.count} broken bootstraps: {seen}, {wrong} verdicts differ")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()

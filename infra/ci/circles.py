#!/usr/bin/env python3
"""Fails on a circle of imports between files of a crate, and prints it.

A file imports another if it names something of it by a path of `crate::`, `super::` or `self::`. A re-export is followed
to the file that declares the name. `mod` alone is no import, and neither is what stands below `#[cfg(test)]`.
Macros are not expanded, and a glob (`use super::*`) imports the module's own file. A submodule may name what its parents
declare: it is a part of them.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|\'(?:\\.[^\']*|[^\\\'])\'', re.S)
ITEM = re.compile(r"\b(?:struct|enum|union|trait|type|const|static|fn|macro_rules!)\s+(?:mut\s+)?(\w+)")


def without_texts(source):
    """The source without comments and literals."""
    return TOKEN.sub(lambda match: " " if match[0].startswith("/") else '""', source)


def block_end(text, start):
    """The position after the item that begins at `start`: after its block, or its semicolon."""
    depth = 0
    for position in range(start, len(text)):
        character = text[position]
        if character in "{([":
            depth += 1
        elif character in "})]":
            depth -= 1
            if depth == 0 and character == "}":
                return position + 1
        elif character == ";" and depth == 0:
            return position + 1
    return len(text)


def without_tests(text):
    """The source without the items below `#[cfg(test)]` and its like."""
    attribute = re.compile(r"#\[cfg\((?:test\b|all\(test\b|any\(test\b|fuzzing\b)[^\]]*\]")
    while match := attribute.search(text):
        start = match.end()
        while further := re.compile(r"\s*#\[").match(text, start):
            depth, start = 1, further.end()
            while depth:
                depth += {"[": 1, "]": -1}.get(text[start], 0)
                start += 1
        text = text[: match.start()] + text[block_end(text, start):]
    return text


def leaves(tree, prefix=()):
    """The paths of a `use` tree, each with the name that it gives: `a::{b, c as d}`."""
    tree = tree.strip()
    match = re.match(r"((?:\w+\s*::\s*)*)\{(.*)\}$", tree, re.S)
    if match:
        prefix += tuple(re.findall(r"\w+", match[1]))
        depth, part = 0, ""
        for character in match[2] + ",":
            depth += {"{": 1, "}": -1}.get(character, 0)
            if character == "," and depth == 0:
                if part.strip():
                    yield from leaves(part, prefix)
                part = ""
            else:
                part += character
        return
    path, _, name = tree.partition(" as ")
    path = prefix + tuple(re.findall(r"\w+|\*", path))
    if len(path) > 1 and path[-1] == "self":
        path = path[:-1]
    yield path, name.strip() or path[-1]


class Crate:
    def __init__(self, source):
        self.source = source
        self.texts = {}
        for file in sorted(source.rglob("*.rs")):
            parts = file.relative_to(source).with_suffix("").parts
            module = () if parts in (("lib",), ("main",)) else parts[:-1] if parts[-1] == "mod" else parts
            if "tests" not in module:
                self.texts[module] = without_tests(without_texts(file.read_text()))
        self.names = {module: set(ITEM.findall(text)) for module, text in self.texts.items()}
        self.uses = {module: list(self.paths(module, text)) for module, text in self.texts.items()}

    def paths(self, module, text):
        """Every path that the file of `module` names, absolute, with the name that it is known by there."""
        for match in re.finditer(r"\buse\s+([^;]+);", text):
            for path, name in leaves(match[1]):
                absolute = self.absolute(module, path)
                if absolute is not None:
                    yield absolute, name
        rest = re.sub(r"\buse\s+[^;]+;", "", text)
        for match in re.finditer(r"\b(?:crate|super|self)(?:\s*::\s*\w+)+", rest):
            absolute = self.absolute(module, tuple(re.findall(r"\w+", match[0])))
            if absolute is not None:
                yield absolute, None

    def absolute(self, module, path):
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return module + path[1:]
        if path[0] == "super":
            base = module
            while path and path[0] == "super":
                base, path = base[:-1], path[1:]
            return base + path
        return module + path if module + path[:1] in self.texts else None

    def file_of(self, path, seen=frozenset()):
        """The module whose file declares what `path` names."""
        module = path
        while module not in self.texts:
            module = module[:-1]
        if module == path:
            return module
        name = path[len(module)]
        if name in self.names[module] or (module, name) in seen:
            return module
        for used, known_as in self.uses[module]:
            if known_as == name and used != path:
                return self.file_of(used + path[len(module) + 1:], seen | {(module, name)})
        return module

    def imports(self):
        graph = {}
        for module, uses in self.uses.items():
            imported = {self.file_of(path) for path, _ in uses}
            graph[module] = {other for other in imported if module[: len(other)] != other}
        return graph

    def name(self, module):
        return "/".join(module) + ".rs" if module else "lib.rs"


def circles(graph):
    """The strongly connected components with more than one file (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(frozenset(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def main():
    sys.setrecursionlimit(10_000)
    failed, files = False, 0
    for manifest in sorted(ROOT.glob("*/*/Cargo.toml")):
        source = manifest.parent / "src"
        if not source.is_dir():
            continue
        crate = Crate(source)
        graph = crate.imports()
        files += len(graph)
        where = manifest.parent.relative_to(ROOT).as_posix()
        for circle in circles(graph):
            failed = True
            print(f"circles: {where}/src has a circle of imports:", file=sys.stderr)
            for module in sorted(circle):
                others = ", ".join(sorted(crate.name(other) for other in graph[module] & circle))
                print(f"  {crate.name(module)} imports {others}", file=sys.stderr)
    if not failed:
        print(f"circles: {files} files without a circle")
    sys.exit(failed)


main()

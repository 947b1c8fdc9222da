"""What is declared twice: kernels.pxd says what kernels.h says, and each stub what its Cython module says."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "pyattn" / "_core"
HEADER, PXD = ROOT / "csrc" / "kernels.h", CORE / "kernels.pxd"
STUBS = sorted(CORE.glob("*.pyi"))


# --- kernels.h and kernels.pxd


def type_of(text):
    """Tokens of a type, with the same names in both languages."""
    tokens = [token for token in re.findall(r"\w+|\*", text) if token != "struct"]
    return ["Py_ssize_t" if token == "ptrdiff_t" else token for token in tokens]


def parameter(text):
    """The type of a parameter, which may have a name."""
    tokens = type_of(text)
    named = tokens[-1] != "*" and len([token for token in tokens if token not in ("*", "const")]) > 1
    return tuple(tokens[:-1] if named else tokens)


def fields(declaration):
    """(name, type) of what `type a, *b[SIZE]` or `type (*function)(type, type)` declares."""
    if function := re.fullmatch(r"(.+?)\(\s*\*\s*(\w+)\s*\)\s*\((.*)\)", declaration):
        result, name, parameters = function.groups()
        return [(name, (*type_of(result), "(", *(parameter(x) for x in parameters.split(",") if x.strip())))]
    found, base = [], ()
    for number, declarator in enumerate(declaration.split(",")):
        head, bracket, size = declarator.partition("[")
        *before, name = type_of(head)
        if number == 0:
            base = tuple(token for token in before if token != "*")
        found.append((name, (*base, "*" * before.count("*"), bracket + size.strip())))
    return found


def c_declarations(text):
    """Enumerators, and name: fields of the structs, of a C header."""
    text = re.sub(r"/\*.*?\*/|^#.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    bodies = ",".join(re.findall(r"enum\s*\{(.*?)\}", text, re.DOTALL))
    enums = {item.partition("=")[0].strip() for item in bodies.split(",")} - {""}
    structs = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", text, re.DOTALL):
        declarations = (" ".join(line.split()) for line in body.split(";"))
        structs[name] = [field for line in declarations if line for field in fields(line)]
    return enums, structs


def cython_declarations(text):
    """The same of a .pxd."""
    text = re.sub(r"\s*#.*| noexcept nogil", "", text)
    text = re.sub(r",\n\s+", ", ", text)
    enums, structs, target = set(), {}, None
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if depth == 4:
            opened = re.fullmatch(r"(enum|struct) ?(\w*):", line.strip())
            target = (enums if opened[1] == "enum" else structs.setdefault(opened[2], [])) if opened else None
        elif depth == 8 and isinstance(target, set):
            target.update(name.strip() for name in line.split(","))
        elif depth == 8 and target is not None:
            target += fields(line.strip())
    return enums, structs


def test_the_pxd_says_what_the_header_says():
    enums, structs = c_declarations(HEADER.read_text())
    declared_enums, declared = cython_declarations(PXD.read_text())
    assert declared_enums == enums
    for name, members in structs.items():
        assert declared.get(name) == members, name
    assert declared.keys() == structs.keys()


def test_a_line_that_is_missing_or_another_is_noticed():
    """Any line of the .pxd, and any two lines of a struct in another order."""
    expected = c_declarations(HEADER.read_text())
    lines = PXD.read_text().splitlines()
    declaring = [number for number, line in enumerate(lines) if re.match(r" {8}\w.*[^,]$", line)]
    assert len(declaring) > 40
    for number in declaring:
        assert cython_declarations("\n".join(lines[:number] + lines[number + 1 :])) != expected, lines[number]
    doubles = [number for number in declaring if "double " in lines[number]]
    for number in doubles:
        changed = [*lines[:number], lines[number].replace("double ", "float ", 1), *lines[number + 1 :]]
        assert cython_declarations("\n".join(changed)) != expected, lines[number]


# --- stubs and Cython modules


def parameters_of(node):
    """(name, whether it has a default) of the parameters of a function in a stub, in order; "*" begins keywords."""
    args = node.args
    positional = args.posonlyargs + args.args
    required = len(positional) - len(args.defaults)
    found = [(arg.arg, number >= required) for number, arg in enumerate(positional)]
    if args.vararg or args.kwonlyargs:
        found.append((f"*{args.vararg.arg if args.vararg else ''}", False))
    found += [(arg.arg, default is not None) for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return found + ([(f"**{args.kwarg.arg}", False)] if args.kwarg else [])


def cython_parameters(text):
    """The same of the text between the parentheses of a Cython function."""
    found = []
    for item in re.split(r",(?![^\[(]*[\])])", re.sub(r"#.*", "", text)):
        head, equals, _ = item.replace("not None", "").replace("or None", "").partition("=")
        if head.strip():
            name = re.split(r":", head)[0].split()[-1]
            found.append((name.replace("&", ""), bool(equals)))
    return found


def stub_functions(text):
    """name, or class.name: parameters of what a stub declares; None for classes and attributes."""
    found = {}
    for node in ast.parse(text).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        if prefix:
            found[node.name] = None
        for member in members:
            if isinstance(member, ast.FunctionDef):
                found[prefix + member.name] = None if member.decorator_list else parameters_of(member)
            elif isinstance(member, ast.AnnAssign) and ast.unparse(member.annotation) != "TypeAlias":
                found[prefix + member.target.id] = None
    return found


def cython_functions(text):
    """The same of the functions and classes of a .pyx that Python can call."""
    found, owner = {}, ""
    pattern = r"^(?:(cdef )?class (\w+)|( *)(?:def|cpdef(?: [\w ]+?\*?)?) ?\b(\w+)\((.*?)\)[^()]*?:\s*(?:#.*)?$)"
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        _, class_name, indent, name, parameters = match.groups()
        if class_name:
            owner = f"{class_name}."
            found[class_name] = None
        elif name not in ("__cinit__", "__dealloc__"):  # which Python cannot call
            decorated = re.search(r"@\w.*\n\s*\Z", text[: match.start()])
            found[(owner if indent else "") + name] = None if decorated else cython_parameters(parameters)
    return found


def differences(stub, source, module):
    """What a stub says otherwise than the module and its source."""
    declared, defined = stub_functions(stub), cython_functions(source)
    for name, parameters in declared.items():
        owner, _, member = name.rpartition(".")
        if not hasattr(getattr(module, owner) if owner else module, member or name):
            yield f"{name} is declared but not there"
        elif parameters is not None and defined.get(name) != parameters:
            yield f"{name} takes {defined.get(name)}, not {parameters}"
    for name in defined.keys() - declared.keys():
        owner, _, member = name.rpartition(".")
        if (owner in declared and member != "__reduce__") or (not owner and defined[name] is not None):
            yield f"{name} is not declared"  # classes that only Cython makes need not be


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.stem)
def test_a_stub_says_what_its_module_says(stub):
    module = importlib.import_module(f"pyattn._core.{stub.stem}")
    source, text = stub.with_suffix(".pyx").read_text(), stub.read_text()
    assert list(differences(text, source, module)) == []
    for declaration in re.findall(r"^ *def .*?\n", text, re.MULTILINE):
        assert list(differences(text.replace(declaration, declaration.replace("def ", "def x", 1)), source, module))


def test_every_module_that_python_calls_has_a_stub():
    for source in CORE.glob("*.pyx"):
        functions = {name: x for name, x in cython_functions(source.read_text()).items() if x is not None}
        assert source.with_suffix(".pyi").exists() or not functions, source

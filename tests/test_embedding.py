"""What a component embeds: every statement of the modules it needs, on its line, without prose."""

import ast

import pytest
from kfp import dsl

from handwriting.sources import package_sources
from ops.embedding import slim, without_prose


class Bare(ast.NodeTransformer):
    """Takes docstrings out of a tree, as `without_prose` does it with text."""

    def generic_visit(self, node):
        super().generic_visit(node)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            text = node.body.pop(0)
            place = {key: getattr(text, key) for key in ("lineno", "col_offset")}
            if not node.body and not isinstance(node, ast.Module):
                node.body = [ast.Pass(**place)]
        return node


def statements(tree):
    """What a tree does, and on which lines."""
    return ast.dump(tree), [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]


@pytest.mark.parametrize("name", sorted(package_sources()))
def test_a_module_keeps_each_statement_on_its_line(name):
    source = package_sources()[name]
    short = without_prose(source)
    if len(ast.parse(source).body) > 1:
        assert statements(ast.parse(short)) == statements(Bare().visit(ast.parse(source)))
    assert len(short) < len(source) and '    """' not in short


def test_strings_that_look_like_comments_or_docstrings_stay():
    source = 'X = """# not a comment"""  # one\n\ndef f():\n    """Says."""\n    return "#", """two\n# lines"""\n'
    assert without_prose(source) == 'X = """# not a comment"""\n\ndef f():\n\n    return "#", """two\n# lines"""\n'


def test_a_body_of_a_docstring_alone_passes():
    assert without_prose('class E(Exception):\n    """Why."""\n') == "class E(Exception):\n    pass\n"


@pytest.mark.parametrize(("source", "message"), [
    ("x = 1", "embeds 0 archives"),
    ("import handwriting.layout\n__KFP_EMBEDDED_ARCHIVE_B64 = 'QUJD'\nopen(mode='r:zst')", "this version of KFP")])
def test_what_cannot_be_slimmed_says_why(source, message):
    @dsl.component(base_image="python:3.11")
    def component():
        pass

    component.component_spec.implementation.container.command = [source]
    with pytest.raises(ValueError, match=message):
        slim(component)

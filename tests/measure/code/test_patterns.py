"""Careless places in code are found, and careful ones beside them are not."""

import ast

import pytest

from lumina.measure.code.patterns import PATTERNS, insecure_patterns, register_pattern

CASES = {
    "eval": (
        ["eval(x)", "exec(input())", "import builtins\nbuiltins.eval(x)"],
        ["eval('1 + 1')", "ast.literal_eval(x)", "model.eval()", "eval"],
    ),
    "shell": (
        [
            "import os\nos.system(x)",
            "from os import popen as p\np(x)",
            "import subprocess as s\ns.run(x, shell=True)",
            "import subprocess\nsubprocess.Popen(x, shell=wanted)",
            "from subprocess import getoutput\ngetoutput(x)",
        ],
        [
            "import subprocess\nsubprocess.run([x], shell=False)",
            "import subprocess\nsubprocess.run([x])",
            "run(x, shell=True)",
        ],
    ),
    "unpickle": (
        [
            "import pickle\npickle.loads(x)",
            "from pickle import load\nload(f)",
            "import torch\ntorch.load(f, weights_only=False)",
            "import numpy as np\nnp.load(f, allow_pickle=True)",
        ],
        [
            "import pickle\npickle.dumps(x)",
            "import torch\ntorch.load(f)",
            "import json\njson.loads(x)",
        ],
    ),
    "yaml_load": (
        [
            "import yaml\nyaml.load(x)",
            "import yaml\nyaml.load(x, Loader=yaml.FullLoader)",
            "import yaml\nyaml.unsafe_load(x)",
        ],
        [
            "import yaml\nyaml.safe_load(x)",
            "import yaml\nyaml.load(x, yaml.SafeLoader)",
            "import yaml\nyaml.load(x, Loader=yaml.CSafeLoader)",
        ],
    ),
    "secret": (
        [
            "password = 'tr0ub4dor'",
            "self.api_key: str = 'f81d4fae7dec'",
            "connect(db_password='hunter2')",
            "{'token': 'f81d4fae7dec'}",
            "print('AKIA' 'ABCDEFGHIJKLMNOP')",
        ],
        [
            "password = ''",
            "password = 'your_password_here'",
            "token = os.environ['TOKEN']",
            "password_field = 'login'",
            "api_key = '<key>'",
        ],
    ),
    "weak_hash": (
        [
            "import hashlib\nhashlib.md5(x)",
            "from hashlib import sha1\nsha1(x)",
            "import hashlib\nhashlib.new('MD5', x)",
        ],
        [
            "import hashlib\nhashlib.sha256(x)",
            "import hashlib\nhashlib.md5(x, usedforsecurity=False)",
            "import hashlib\nhashlib.new('sha256', x)",
        ],
    ),
    "sql": (
        [
            "db.execute('SELECT * FROM t WHERE a = ' + x)",
            "db.execute('SELECT * FROM t WHERE a = ' + x + ' AND b = 1')",
            "q = f'DELETE FROM t WHERE a = {x}'",
            "'UPDATE t SET a = %s' % x",
            "'insert into t values ({})'.format(x)",
        ],
        [
            "db.execute('SELECT * FROM t WHERE a = ?', (x,))",
            "f'select one of {x}'",
            "'SELECT a ' + 'FROM t'",
            "f'{x} updates'",
        ],
    ),
    "temporary_name": (
        ["import tempfile\ntempfile.mktemp()"],
        ["import tempfile\ntempfile.mkstemp()"],
    ),
    "unchecked_tls": (
        [
            "import requests\nrequests.get(x, verify=False)",
            "import ssl\nssl._create_unverified_context()",
        ],
        ["import requests\nrequests.get(x)", "check(x, verify=False)"],
    ),
    "debug_server": (["app.run(debug=True)"], ["app.run()", "app.run(debug=False)"]),
    "open_to_all": (
        ["import os\nos.chmod(f, 0o777)"],
        ["import os\nos.chmod(f, 0o750)", "import os\nos.chmod(f, mode)"],
    ),
    "weak_random": (
        ["import random\ntoken = random.choice(x)"],
        [
            "import random\nplace = random.choice(x)",
            "import secrets\ntoken = secrets.token_hex()",
            "import random\ntoken = random.SystemRandom().choice(x)",
        ],
    ),
}


@pytest.mark.covers("EVL-06: insecure-pattern detection")
@pytest.mark.parametrize("name", PATTERNS)
def test_a_careless_place_is_found_once_and_a_careful_one_is_not(name: str) -> None:
    careless, careful = CASES[name]
    for code in careless:
        found = insecure_patterns(ast.parse(f"# first\n{code}"))
        assert [one.name for one in found] == [name], code
        assert found[0].line == code.count("\n") + 2
        assert found[0].cwe == PATTERNS[name].cwe
    for code in careful:
        assert insecure_patterns(ast.parse(code)) == [], code


def test_a_name_of_its_own_is_not_taken_for_another() -> None:
    assert insecure_patterns(ast.parse("from other import loads\nloads(x)")) == []
    assert insecure_patterns(ast.parse("import pickle\nx.pickle.loads")) == []


def test_one_more_pattern_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina.measure.code.patterns.PATTERNS", dict(PATTERNS))

    @register_pattern("no_assert", 617, "an assertion is left")
    def _assert(node: ast.AST, names: object) -> bool:
        return isinstance(node, ast.Assert)

    import lumina.measure.code.patterns as patterns

    [found] = patterns.insecure_patterns(ast.parse("x = 1\nassert x"))
    assert (found.name, found.cwe, found.line) == ("no_assert", 617, 2)
    patterns.PATTERNS.pop("no_assert")

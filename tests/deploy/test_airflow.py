# SPDX-License-Identifier: Apache-2.0
"""The DAG, as far as its source tells: Airflow itself is not among what the tests install."""

from __future__ import annotations

import ast

import pytest

from tests.deploy.files import AIRFLOW, ROUNDS, manifests, of_kind

TREE = ast.parse(AIRFLOW.read_text("utf-8"))


def calls(name):
    return [
        {each.arg: each.value for each in node.keywords}
        for node in ast.walk(TREE)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def test_it_compiles():
    compile(TREE, str(AIRFLOW), "exec")


def test_names_are_imported_or_assigned():
    imports = [node for node in TREE.body if isinstance(node, ast.Import | ast.ImportFrom)]
    known = {alias.asname or alias.name for node in imports for alias in node.names}
    known |= {
        each.id
        for each in ast.walk(TREE)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }
    used = {each.id for each in ast.walk(TREE) if isinstance(each, ast.Name)}
    assert used - known == set()


@pytest.mark.parametrize("dag", calls("DAG"), ids=lambda each: ast.literal_eval(each["dag_id"]))
def test_a_dag_runs_once_at_a_time(dag):
    assert ast.literal_eval(dag["max_active_runs"]) == 1
    assert ast.literal_eval(dag["catchup"]) is False


def test_tasks_have_names_and_ends():
    tasks = calls("KubernetesPodOperator")
    assert [ast.literal_eval(each["task_id"]) for each in tasks] == ["catch_up", "audit"]
    assert all("execution_timeout" in each for each in tasks)


def test_pods_are_those_of_the_manifests():
    (pod,) = [
        node.value
        for node in TREE.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "POD"
    ]
    given = dict(zip([ast.literal_eval(each) for each in pod.keys], pod.values, strict=True))
    account = of_kind(manifests(ROUNDS), "ServiceAccount")["metadata"]["name"]
    assert ast.literal_eval(given["service_account_name"]) == account
    assert ast.literal_eval(given["cmds"]) == ["dynabeam"]

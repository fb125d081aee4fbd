# SPDX-License-Identifier: Apache-2.0
"""A DAG for Airflow 3: catch up every ten minutes, and prove the mirror every night.

Copy it to the folder of DAGs. It needs the provider `apache-airflow-providers-cncf-kubernetes`; the
pods take the service account of deploy/kubernetes/rounds and the secret of
deploy/kubernetes/continuous. IMAGE, tables and names that begin with "my-" are yours to fill in.
With more than 24 hours between two runs that succeed changes are lost: a failure is worth an alert.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from airflow.sdk import DAG
from kubernetes.client import models as k8s

IMAGE = "REGISTRY/dynabeam:VERSION"
SINK = (
    "postgresql://loader:${env:PGPASSWORD}@my-postgres/analytics"
    "?sslmode=verify-full&sslrootcert=/etc/dynabeam/postgres-ca.pem"
)
WHERE = [
    "--name=my-replication",
    "--tables=orders,customers",
    "--region=eu-west-1",
    "--s3_export_bucket=my-exports",
    "--state_dir=s3://my-lake/dynabeam/my-replication",
]

# What both tasks have in common. The state directory has a lease: a pod that Airflow has lost sight
# of, and that still runs, makes the next one end with an error, not both of them write.
POD = {
    "namespace": "dynabeam",
    "image": IMAGE,
    "cmds": ["dynabeam"],
    "service_account_name": "dynabeam-rounds",
    "automount_service_account_token": False,
    "secrets": [
        Secret("env", "PGPASSWORD", "dynabeam", "PGPASSWORD"),
        Secret("volume", "/etc/dynabeam", "dynabeam"),
    ],
    "env_vars": {"HOME": "/tmp"},  # noqa: S108 - of the pod, which is nobody else's
    "container_resources": k8s.V1ResourceRequirements(
        requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "2Gi"}
    ),
    "security_context": k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=10001,
        run_as_group=10001,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    ),
    "container_security_context": k8s.V1SecurityContext(
        allow_privilege_escalation=False, capabilities=k8s.V1Capabilities(drop=["ALL"])
    ),
    "termination_grace_period": 300,
    "get_logs": True,
}

with DAG(
    dag_id="dynabeam_rounds",
    description="DynamoDB tables to PostgreSQL, caught up every ten minutes",
    schedule="*/10 * * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["dynabeam"],
) as rounds:
    KubernetesPodOperator(
        task_id="catch_up",
        name="dynabeam-catch-up",
        arguments=["replicate", *WHERE, f"--sink={SINK}", "--until=caught_up", "--log_format=json"],
        retries=2,
        retry_delay=timedelta(minutes=1),
        execution_timeout=timedelta(hours=6),
        **POD,
    )

with DAG(
    dag_id="dynabeam_audit",
    description="Proves that the mirrors equal their tables; each run pays for an export",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["dynabeam"],
) as audit:
    KubernetesPodOperator(
        task_id="audit",
        name="dynabeam-audit",
        arguments=["audit", *WHERE, f"--sink={SINK}"],
        execution_timeout=timedelta(hours=6),
        **POD,
    )

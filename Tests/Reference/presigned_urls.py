"""Prints Tests/Artifacts/PresignedFixtures.swift: URLs presigned by botocore at fixed times, which ours must equal.

python Tests/Reference/presigned_urls.py > Tests/Artifacts/PresignedFixtures.swift    (with botocore installed)
"""

import datetime
from unittest import mock

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

TIME = datetime.datetime(2026, 1, 31, 23, 59, 59, tzinfo=datetime.timezone.utc)
CASES = [
    ("https://studio-latents.s3.eu-central-1.amazonaws.com/a/b.safetensors", "eu-central-1", None, 3600),
    ("http://127.0.0.1:9000/studio-latents/runs/7/lo%20ra%2B%C3%A4~.safetensors", "us-east-1", None, 1),
    ("https://minio.example.com/studio-latents/a", "us-east-1", "token/with+signs==", 604800),
]
print("/// Presigned by botocore; made by `Tests/Reference/presigned_urls.py`.")
print("let presignedByBotocore: [(url: String, region: String, token: String?, seconds: Int, presigned: String)] = [")
for url, region, token, seconds in CASES:
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    request = AWSRequest(method="GET", url=url)
    with mock.patch.object(botocore.auth, "get_current_datetime", lambda *a, **k: TIME.replace(tzinfo=None)):
        botocore.auth.S3SigV4QueryAuth(credentials, "s3", region, expires=seconds).add_auth(request)
    shown = f'"{token}"' if token else "nil"
    print(f'    (\n        "{url}", "{region}", {shown}, {seconds},\n        "{request.url}"\n    ),')
print("]")

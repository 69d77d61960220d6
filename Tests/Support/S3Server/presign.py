"""Presigns by botocore what standard input lists as JSON: url, region, token, seconds and time. Prints a list of URLs."""

import datetime
import json
import sys
from unittest import mock

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

answer = []
for case in json.load(sys.stdin):
    time = datetime.datetime.fromtimestamp(case["time"], datetime.timezone.utc).replace(tzinfo=None)
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", case.get("token"))
    request = AWSRequest(method="GET", url=case["url"])
    with mock.patch.object(botocore.auth, "get_current_datetime", lambda *a, **k: time):
        botocore.auth.S3SigV4QueryAuth(credentials, "s3", case["region"], expires=case["seconds"]).add_auth(request)
    answer.append(request.url)
json.dump(answer, sys.stdout)

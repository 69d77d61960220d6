"""moto's S3 with authentication on. Prints one line of JSON: the port, keys that may do everything, keys that may do nothing, and a session."""

import json
import logging
import os
import sys
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
options = dict(endpoint_url=url, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any")
iam = boto3.client("iam", **options)
sts = boto3.client("sts", **options)
s3 = boto3.client("s3", **options)
policy = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})


def keys(user, allowed):
    iam.create_user(UserName=user)
    if allowed:
        iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    return {"access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"]}


answer = {"port": port, "user": keys("user", True), "stranger": keys("stranger", False)}
trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}]}
role = iam.create_role(RoleName="role", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
iam.put_role_policy(RoleName="role", PolicyName="all", PolicyDocument=policy)
session = sts.assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
answer["session"] = {
    "access_key": session["AccessKeyId"],
    "secret_key": session["SecretAccessKey"],
    "token": session["SessionToken"],
}
s3.create_bucket(Bucket="studio-latents")
# Authentication is off until so many actions were done.
request = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST")
urllib.request.urlopen(request).read()
print(json.dumps(answer), flush=True)
sys.stdin.read()
os._exit(0)

/// Presigned by botocore; made by `Tests/Reference/presigned_urls.py`.
let presignedByBotocore: [(url: String, region: String, token: String?, seconds: Int, presigned: String)] = [
    (
        "https://studio-latents.s3.eu-central-1.amazonaws.com/a/b.safetensors", "eu-central-1", nil, 3600,
        "https://studio-latents.s3.eu-central-1.amazonaws.com/a/b.safetensors?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260131%2Feu-central-1%2Fs3%2Faws4_request&X-Amz-Date=20260131T235959Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=47899ae320f780074c169cae154730c23a9798383d18d9c299b3fc0fd44e77c5"
    ),
    (
        "http://127.0.0.1:9000/studio-latents/runs/7/lo%20ra%2B%C3%A4~.safetensors", "us-east-1", nil, 1,
        "http://127.0.0.1:9000/studio-latents/runs/7/lo%20ra%2B%C3%A4~.safetensors?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260131%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20260131T235959Z&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=e1e26e44081aeafa18478791a92194b1cbb98feb46f24d9186cfff9cf9a79d3d"
    ),
    (
        "https://minio.example.com/studio-latents/a", "us-east-1", "token/with+signs==", 604800,
        "https://minio.example.com/studio-latents/a?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260131%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20260131T235959Z&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Security-Token=token%2Fwith%2Bsigns%3D%3D&X-Amz-Signature=21e2526c798ba8f8ec153e6d9738e1ac51b1ffe9bd3917c4309ffdf4db6140b5"
    ),
]

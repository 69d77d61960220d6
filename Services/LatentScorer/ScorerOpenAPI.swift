import ServiceKit

/// The description of the HTTP side that `/openapi.json` serves: OpenAPI 3.1, examples included.
enum ScorerOpenAPI {
    static let document = OpenAPIDocument.render(
        title: "Foretaste scorer",
        description:
            "Scores unfinished latents as they are, at any noise level, with the champion reward. The body is one safetensors file, or JSON that names files by URL.",
        fragments: [fragment])

    private static let fragment = #"""
        {
          "paths": {
            "/v1/score": {
              "post": {
                "operationId": "score",
                "summary": "Score candidates, best first",
                "parameters": [{"$ref": "#/components/parameters/model"}, {"$ref": "#/components/parameters/dimension"}],
                "requestBody": {"$ref": "#/components/requestBodies/Latents"},
                "responses": {
                  "200": {"description": "Scores, best first", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Scores"}, "examples": {"four": {"value": {"model": {"name": "reward-overall", "version": 1, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}, "results": [{"index": 3, "score": 1.92}, {"index": 0, "score": -0.41}], "timing": {"queue_ms": 0.2, "compute_ms": 41.0, "prepare_ms": 1.3}}}}}}},
                  "404": {"$ref": "#/components/responses/NoModel"},
                  "409": {"$ref": "#/components/responses/NoChampion"},
                  "422": {"$ref": "#/components/responses/Unfit"},
                  "502": {"$ref": "#/components/responses/Upstream"}
                }
              }
            },
            "/v1/best-of-n": {
              "post": {
                "operationId": "bestOfN",
                "summary": "Say which candidates of a Best-of-N go on",
                "parameters": [
                  {"$ref": "#/components/parameters/model"}, {"$ref": "#/components/parameters/dimension"},
                  {"name": "keep", "in": "query", "required": true, "description": "How many candidates go on", "schema": {"type": "integer", "minimum": 1}, "example": 4}
                ],
                "requestBody": {"$ref": "#/components/requestBodies/Latents"},
                "responses": {
                  "200": {"description": "As /v1/score, and the indices to keep, best first", "content": {"application/json": {"schema": {"allOf": [{"$ref": "#/components/schemas/Scores"}, {"type": "object", "required": ["keep"], "properties": {"keep": {"type": "array", "items": {"type": "integer"}}}}]}, "examples": {"one of two": {"value": {"model": {"name": "reward-overall", "version": 1, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}, "results": [{"index": 1, "score": 1.92}, {"index": 0, "score": -0.41}], "keep": [1], "timing": {"queue_ms": 0.2, "compute_ms": 41.0, "prepare_ms": 1.3}}}}}}},
                  "404": {"$ref": "#/components/responses/NoModel"},
                  "409": {"$ref": "#/components/responses/NoChampion"},
                  "422": {"$ref": "#/components/responses/Unfit"},
                  "502": {"$ref": "#/components/responses/Upstream"}
                }
              }
            }
          },
          "components": {
            "parameters": {
              "model": {"name": "model", "in": "query", "description": "NAME@ALIAS or NAME:VERSION; without it the champion for the dimension on the backbone that the metadata names", "schema": {"type": "string"}, "example": "reward-overall@champion"},
              "dimension": {"name": "dimension", "in": "query", "description": "Whose champion, where no model is named", "schema": {"type": "string", "default": "overall"}}
            },
            "requestBodies": {
              "Latents": {
                "required": true,
                "content": {
                  "application/octet-stream": {
                    "schema": {"type": "string", "contentMediaType": "application/octet-stream", "description": "A safetensors file (F32, F16, BF16): latents [N,C,F,H,W], prompt_embeds [L,D] for all or [N,L,D], condition and image_embeds likewise where the backbone takes them. Metadata, all strings: backbone, vae, layout (CFHW), space (normalized), noise.kind (flow), noise.sigma and noise.timestep (0-1000) of the latents as they are, after the step."}
                  },
                  "application/json": {
                    "schema": {"$ref": "#/components/schemas/References"},
                    "examples": {"by URL": {"value": {"latents": {"url": "http://127.0.0.1:9000/latents.safetensors", "sha256": "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"}, "metadata": {"noise.sigma": "0.7", "noise.timestep": "700"}}}}
                  }
                }
              }
            },
            "responses": {
              "NoModel": {"description": "There is no such model", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {"usual": {"value": {"type": "/problems#not-found", "title": "Not Found", "status": 404, "detail": "there is no model reward-overall@champion"}}}}}},
              "NoChampion": {"description": "There is no champion yet for the dimension on this backbone", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {"usual": {"value": {"type": "/problems#conflict", "title": "Conflict", "status": 409, "detail": "There is no champion for dimension 'overall' on the backbone 'wan-demo' yet: train a reward first, or name one with ?model=NAME@ALIAS."}}}}}},
              "Unfit": {"description": "The file is not sound, or not what the model takes", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {"usual": {"value": {"type": "/problems#invalid-content", "title": "The content is not valid", "status": 422, "errors": [{"pointer": "/__metadata__/noise.kind", "detail": "is 'vp_eps', the reward expects 'flow'. Another kind of noise has another meaning of sigma."}]}}}}}}
            },
            "schemas": {
              "Scores": {
                "type": "object", "required": ["model", "results", "timing"],
                "properties": {
                  "model": {"type": "object", "required": ["name", "version", "sha256"], "properties": {"name": {"type": "string"}, "version": {"type": "integer"}, "sha256": {"type": "string"}}},
                  "results": {"type": "array", "description": "Best first", "items": {"type": "object", "required": ["index", "score"], "properties": {"index": {"type": "integer"}, "score": {"type": "number"}}}},
                  "timing": {"type": "object", "required": ["queue_ms", "compute_ms"], "properties": {"queue_ms": {"type": "number"}, "compute_ms": {"type": "number"}, "prepare_ms": {"type": "number", "description": "Reading the body and finding the model"}}}
                }
              },
              "Artifact": {"type": "object", "required": ["url", "sha256"], "additionalProperties": false, "properties": {"url": {"type": "string"}, "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}},
              "References": {
                "type": "object", "required": ["latents"], "additionalProperties": false,
                "properties": {
                  "latents": {"description": "One file with everything, or one file a candidate", "oneOf": [{"$ref": "#/components/schemas/Artifact"}, {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Artifact"}}]},
                  "prompt_embeds": {"$ref": "#/components/schemas/Artifact"},
                  "condition": {"$ref": "#/components/schemas/Artifact"},
                  "image_embeds": {"$ref": "#/components/schemas/Artifact"},
                  "metadata": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Believed instead of the files' own"}
                }
              }
            }
          }
        }
        """#
}

import ServiceKit

/// The description of the HTTP side that `/openapi.json` serves: OpenAPI 3.1, examples included. Tests keep it and the routes together.
enum OpenAPI {
    /// Whoever adds routes adds a fragment with their `paths` and `components`.
    static let fragments = [preferences]

    static let document = OpenAPIDocument.render(
        title: "Foretaste ingest",
        description:
            "Preference pairs in: two latents by URL and digest, a prompt, an outcome. A pair is `received` when it is posted, and `usable` or `quarantined` after a job has fetched and checked its artifacts.",
        fragments: fragments)

    private static let preferences = #"""
        {
          "paths": {
            "/v1/preferences": {
              "post": {
                "operationId": "postPreferences",
                "summary": "Post one pair, ranking or rating, or many as NDJSON",
                "description": "`source` and `external_id` are the pair's key: the same pair again is a replay, another content under the same key a conflict. In a bulk body every line stands alone; sending the whole body again is safe, and so is any request with an Idempotency-Key. Bodies may be packed with gzip.",
                "tags": ["labels"],
                "parameters": [
                  {"$ref": "#/components/parameters/DryRun"},
                  {"name": "atomic", "in": "query", "description": "Of a bulk body: store every line or none", "schema": {"type": "boolean", "default": false}},
                  {"$ref": "#/components/parameters/IdempotencyKey"},
                  {"$ref": "#/components/parameters/ContentEncoding"}
                ],
                "requestBody": {
                  "required": true,
                  "content": {
                    "application/json": {
                      "schema": {"$ref": "#/components/schemas/NewLabel"},
                      "examples": {"pair": {"value": EXAMPLE}}
                    },
                    "application/x-ndjson": {
                      "schema": {"type": "string", "description": "One NewLabel a line; blank lines are skipped."},
                      "examples": {"pairs": {"value": LINES}}
                    }
                  }
                },
                "responses": {
                  "200": {
                    "description": "One pair that was posted before, a bulk body all of whose lines were accepted, or a dry run of either",
                    "headers": {"Idempotency-Replayed": {"$ref": "#/components/headers/IdempotencyReplayed"}},
                    "content": {
                      "application/json": {
                        "schema": {"oneOf": [{"$ref": "#/components/schemas/Posted"}, {"$ref": "#/components/schemas/BulkResult"}]},
                        "examples": {
                          "replay": {"value": {"id": "pair_0f3a", "state": "usable"}},
                          "dry run": {"value": {"dry_run": true, "state": "received"}},
                          "bulk": {"value": {"counts": {"created": 2, "replayed": 0, "rejected": 0}, "results": [{"line": 1, "status": 201, "id": "pair_0f3a"}, {"line": 2, "status": 201, "id": "pair_77b1"}]}}
                        }
                      }
                    }
                  },
                  "201": {
                    "description": "The pair is stored and its verification queued",
                    "headers": {"Location": {"schema": {"type": "string"}, "example": "/v1/preferences/pair_0f3a"}, "Idempotency-Replayed": {"$ref": "#/components/headers/IdempotencyReplayed"}},
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Posted"}, "examples": {"created": {"value": {"id": "pair_0f3a", "state": "received"}}}}}
                  },
                  "207": {
                    "description": "A bulk body some of whose lines were accepted",
                    "content": {
                      "application/json": {
                        "schema": {"$ref": "#/components/schemas/BulkResult"},
                        "examples": {"mixed": {"value": {"counts": {"created": 1, "replayed": 0, "rejected": 1}, "results": [{"line": 1, "status": 201, "id": "pair_0f3a"}, {"line": 2, "status": 422, "errors": [{"pointer": "/outcome", "detail": "expected one of a, b, tie, both_bad, skip; found 'left'"}]}]}}}
                      }
                    }
                  },
                  "409": {
                    "description": "The key belongs to a pair with another content, or the Idempotency-Key is in use just now; for an atomic bulk body, only keys that are taken stood in the way",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BulkResult"}, "examples": {"atomic": {"value": {"counts": {"created": 0, "replayed": 0, "rejected": 2}, "results": [{"line": 1, "status": 409, "id": "pair_0f3a", "errors": [{"pointer": "/outcome", "detail": "differs from the pair pair_0f3a, which has the same source and external_id"}]}, {"line": 2, "status": 424}]}}}}, "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {"conflict": {"value": {"type": "/problems#conflict", "title": "Conflict", "status": 409, "detail": "source and external_id name the pair pair_0f3a, which was posted with another content. Was the key used twice?", "errors": [{"pointer": "/outcome", "detail": "differs from the pair pair_0f3a, which has the same source and external_id"}]}}}}}
                  },
                  "422": {
                    "description": "The content is wrong, place by place; for a bulk body, no line was accepted (or, of an atomic one, not every line). Or an Idempotency-Key that came with another request before",
                    "content": {
                      "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {"digest": {"value": {"type": "/problems#invalid-content", "title": "The content is not valid", "status": 422, "detail": "/a/sha256: is required", "errors": [{"pointer": "/a/sha256", "detail": "is required"}]}}}},
                      "application/json": {"schema": {"$ref": "#/components/schemas/BulkResult"}, "examples": {"none": {"value": {"counts": {"created": 0, "replayed": 0, "rejected": 1}, "results": [{"line": 1, "status": 422, "errors": [{"pointer": "/outcome", "detail": "is required"}]}]}}}}
                    }
                  }
                }
              },
              "get": {
                "operationId": "listPreferences",
                "tags": ["labels"],
                "summary": "List pairs or ratings, oldest first",
                "description": "Rankings are listed as the pairs that follow from them.",
                "parameters": [
                  {"name": "type", "in": "query", "description": "Which labels; a cursor belongs to one of them", "schema": {"type": "string", "enum": ["pair", "rating"], "default": "pair"}},
                  {"name": "state", "in": "query", "schema": {"$ref": "#/components/schemas/State"}, "example": "usable"},
                  {"name": "dimension", "in": "query", "schema": {"type": "string"}, "example": "overall"},
                  {"name": "source", "in": "query", "schema": {"type": "string"}, "example": "studio"},
                  {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}},
                  {"name": "cursor", "in": "query", "description": "`next` of the page before", "schema": {"type": "string"}}
                ],
                "responses": {
                  "200": {
                    "description": "A page",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Page"}, "examples": {"page": {"value": {"items": [STORED], "next": null}}, "ratings": {"value": {"items": [RATED], "next": "cjE6Nw"}}}}}
                  }
                }
              }
            },
            "/v1/preferences/summary": {
              "get": {
                "operationId": "summarizePreferences",
                "tags": ["labels"],
                "summary": "How many pairs are in each state, and how many ratings",
                "responses": {
                  "200": {
                    "description": "Counts",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Summary"}, "examples": {"counts": {"value": {"received": 0, "usable": 1437, "quarantined": 3, "ratings": {"received": 2, "usable": 80, "quarantined": 0}}}}}}
                  }
                }
              }
            },
            "/v1/preferences/{id}": {
              "get": {
                "operationId": "getPreference",
                "tags": ["labels"],
                "summary": "One pair, ranking or rating as posted, with its state and the reason for it",
                "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}, "example": "pair_0f3a"}],
                "responses": {
                  "200": {
                    "description": "The label",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Label"}, "examples": {"pair": {"value": STORED}, "rating": {"value": RATED}}}}
                  },
                  "404": {"$ref": "#/components/responses/Problem"}
                }
              },
              "delete": RETRACTION
            },
            LABEL_PATHS,
            "/v1/audit": {
              "get": {
                "operationId": "listAudit",
                "tags": ["operations"],
                "summary": "What was done and by whom, oldest first; for keys with the scope admin",
                "parameters": [
                  {"name": "action", "in": "query", "schema": {"type": "string"}, "example": "key.created"},
                  {"name": "object", "in": "query", "schema": {"type": "string"}, "example": "dLsFc3Yq"},
                  {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}},
                  {"name": "cursor", "in": "query", "description": "`next` of the page before", "schema": {"type": "string"}}
                ],
                "responses": {
                  "200": {
                    "description": "A page",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/AuditPage"}, "examples": {"page": {"value": {"items": [{"id": "7", "at": "2026-11-21T09:12:40.123Z", "actor": "sql:foretaste", "action": "key.revoked", "object": "dLsFc3Yq", "request_id": null, "ip": null, "details": {"reason": "left the studio"}}], "next": null}}}}}
                  }
                }
              }
            }
          },
          "components": {
            "parameters": {
              "DryRun": {"name": "dry_run", "in": "query", "description": "Check everything and say what would become of it; change nothing", "schema": {"type": "boolean", "default": false}},
              "IdempotencyKey": {"name": "Idempotency-Key", "in": "header", "description": "1 to 255 visible ASCII characters. The same request with the same key again gets the first one's answer, for 24 hours; another request with it is refused (422), one at the same time too (409). Requests that are refused do not use their key up. Not looked at in a dry run.", "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"}, "example": "8e03978e-40d5-43dd-bc93-6894a57f9324"},
              "ContentEncoding": {"name": "Content-Encoding", "in": "header", "description": "How the body is packed, gzip or identity; its limit counts for what comes out", "schema": {"type": "string", "enum": ["identity", "gzip"]}, "example": "identity"}
            },
            "headers": {
              "IdempotencyReplayed": {"description": "This is the kept answer to an earlier request with the same Idempotency-Key", "schema": {"type": "string", "enum": ["true"]}, "example": "true"}
            },
            "schemas": {
              LABEL_SCHEMAS,
              "State": {"type": "string", "enum": ["received", "usable", "quarantined"]},
              "Artifact": {
                "type": "object",
                "additionalProperties": false,
                "required": ["url", "sha256"],
                "properties": {
                  "url": {"type": "string", "maxLength": 8192, "description": "file:, http:, https: or s3:; what may be fetched is the operator's allow-list. Shown without its query, which may hold a signature"},
                  "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}
                }
              },
              "NewPair": {
                "type": "object",
                "additionalProperties": false,
                "required": ["source", "external_id", "prompt", "dimension", "rater", "a", "b"],
                "anyOf": [{"required": ["outcome"]}, {"required": ["votes"]}, {"required": ["soft_label"]}],
                "properties": {
                  "type": {"const": "pair"},
                  "source": {"type": "string", "minLength": 1, "maxLength": SOURCE},
                  "external_id": {"type": "string", "minLength": 1, "maxLength": KEY},
                  "prompt": {"type": "string", "minLength": 1, "maxLength": PROMPT},
                  "dimension": {"type": "string", "maxLength": DIMENSION, "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$", "description": "One of GET /v1/dimensions: overall, vq, mq, ta, and what was added"},
                  LABEL_PROPERTIES,
                  "rater": {"type": "string", "minLength": 1, "maxLength": RATER},
                  "a": {"$ref": "#/components/schemas/Artifact"},
                  "b": {"$ref": "#/components/schemas/Artifact"}
                }
              },
              "Pair": {
                "type": "object",
                "required": ["id", "state", "reason", "source", "external_id", "prompt", "dimension", "outcome", "rater", "a", "b"],
                "properties": {
                  "id": {"type": "string"},
                  "state": {"$ref": "#/components/schemas/State"},
                  "reason": {"type": ["string", "null"], "description": "Why a pair is quarantined: the field and the likely cause"},
                  "source": {"type": "string"},
                  "external_id": {"type": "string"},
                  "prompt": {"type": "string"},
                  "dimension": {"type": "string"},
                  LABEL_PROPERTIES,
                  "rater": {"type": "string"},
                  "a": {"$ref": "#/components/schemas/Artifact"},
                  "b": {"$ref": "#/components/schemas/Artifact"}
                }
              },
              "Posted": {
                "type": "object",
                "required": ["state"],
                "properties": {
                  "id": {"type": "string", "description": "Left out where a dry run stored nothing"},
                  "state": {"$ref": "#/components/schemas/State"},
                  "dry_run": {"type": "boolean", "const": true}
                }
              },
              "BulkResult": {
                "type": "object",
                "required": ["counts", "results"],
                "properties": {
                  "dry_run": {"type": "boolean", "const": true},
                  "counts": {
                    "type": "object",
                    "required": ["created", "replayed", "rejected"],
                    "properties": {"created": {"type": "integer"}, "replayed": {"type": "integer"}, "rejected": {"type": "integer"}}
                  },
                  "results": {
                    "type": "array",
                    "items": {
                      "type": "object",
                      "required": ["line", "status"],
                      "properties": {
                        "line": {"type": "integer", "minimum": 1},
                        "status": {"type": "integer", "enum": [200, 201, 409, 422, 424], "description": "As of a single post; 424: refused because another line of an atomic body was"},
                        "id": {"type": "string"},
                        "errors": {"type": "array", "items": {"$ref": "#/components/schemas/FieldError"}}
                      }
                    }
                  }
                }
              },
              "Page": {
                "type": "object",
                "required": ["items", "next"],
                "properties": {
                  "items": {"type": "array", "items": {"anyOf": [{"$ref": "#/components/schemas/Pair"}, {"$ref": "#/components/schemas/StoredRating"}]}},
                  "next": {"type": ["string", "null"]}
                }
              },
              "Summary": {
                "type": "object",
                "required": ["received", "usable", "quarantined", "ratings"],
                "properties": {
                  "received": {"type": "integer"}, "usable": {"type": "integer"}, "quarantined": {"type": "integer"},
                  "ratings": {
                    "type": "object",
                    "required": ["received", "usable", "quarantined"],
                    "properties": {"received": {"type": "integer"}, "usable": {"type": "integer"}, "quarantined": {"type": "integer"}}
                  }
                }
              },
              "StoredRating": {
                "type": "object",
                "required": ["id", "type", "state", "reason", "source", "external_id", "prompt", "dimension", "rater", "latent", "rating", "scale"],
                "properties": {
                  "id": {"type": "string"},
                  "type": {"const": "rating"},
                  "state": {"$ref": "#/components/schemas/State"},
                  "reason": {"type": ["string", "null"], "description": "Why a rating is quarantined: the field and the likely cause"},
                  "source": {"type": "string"},
                  "external_id": {"type": "string"},
                  "prompt": {"type": "string"},
                  "dimension": {"type": "string"},
                  "rater": {"type": "string"},
                  "latent": {"$ref": "#/components/schemas/Artifact"},
                  "rating": {"type": "number", "description": "good is 1 and bad is 0 on a scale from 0 to 1"},
                  "scale": {"$ref": "#/components/schemas/Scale"},
                  "revision": {"type": "integer", "minimum": 1, "description": "Only of a rating that was changed"},
                  "retracted_at": {"type": "string", "format": "date-time", "description": "Only of a rating that is retracted"}
                }
              },
              "AuditPage": {
                "type": "object",
                "required": ["items", "next"],
                "properties": {
                  "items": {
                    "type": "array",
                    "items": {
                      "type": "object",
                      "required": ["id", "at", "actor", "action", "object", "request_id", "ip", "details"],
                      "properties": {
                        "id": {"type": "string"},
                        "at": {"type": "string", "format": "date-time"},
                        "actor": {"type": "string", "description": "key:ID, anonymous, or sql:ROLE for a session of the database"},
                        "action": {"type": "string"},
                        "object": {"type": "string"},
                        "request_id": {"type": ["string", "null"]},
                        "ip": {"type": ["string", "null"]},
                        "details": {"type": "object", "additionalProperties": {"type": "string"}}
                      }
                    }
                  },
                  "next": {"type": ["string", "null"]}
                }
              }
            }
          }
        }
        """#
        .replacing("EXAMPLE", with: "{" + posted + "}")
        .replacing(
            "LINES",
            with: #""{\"source\":\"studio\",\"external_id\":\"42\",…}\n"#
                + #"{\"source\":\"studio\",\"external_id\":\"43\",…}\n""#
        )
        .replacing("STORED", with: #"{"id": "pair_0f3a", "state": "usable", "reason": null, "# + posted + "}")
        .replacing("RATED", with: rated)
        .replacing("SOURCE", with: "\(PairDecoder.sourceLimit)")
        .replacing("KEY", with: "\(PairDecoder.keyLimit)")
        .replacing("PROMPT", with: "\(PairDecoder.promptLimit)")
        .replacing("DIMENSION", with: "\(PairDecoder.dimensionLimit)")
        .replacing("RATER", with: "\(PairDecoder.raterLimit)")
        .replacing("RETRACTION", with: retraction)
        .replacing("LABEL_PATHS", with: labelPaths)
        .replacing("LABEL_SCHEMAS", with: labelSchemas)
        .replacing("LABEL_PROPERTIES", with: labelProperties)

    private static let posted = #"""
        "source": "studio", "external_id": "42", "prompt": "red diamond moving right", "dimension": "overall", "outcome": "a", "rater": "r1", \#
        "a": {"url": "http://127.0.0.1:9000/latents/a.safetensors", "sha256": "\#(String(repeating: "a1", count: 32))"}, \#
        "b": {"url": "http://127.0.0.1:9000/latents/b.safetensors", "sha256": "\#(String(repeating: "b2", count: 32))"}
        """#

    private static let rated = #"""
        {"id": "rating_77b1", "type": "rating", "state": "quarantined", "reason": "/latent/sha256: …", \#
        "source": "studio", "external_id": "r-42", "prompt": "red diamond moving right", "dimension": "vq", "rater": "r1", \#
        "latent": {"url": "http://127.0.0.1:9000/latents/a.safetensors", "sha256": "\#(String(repeating: "a1", count: 32))"}, \#
        "rating": 4, "scale": {"min": 1, "max": 5}, "revision": 1}
        """#
}

import Preferences

/// What the description says about labels beyond pairs, about changing them, dimensions and snapshots; `OpenAPI.document` joins it.
extension OpenAPI {
    /// Members of the object `paths`.
    static let labelPaths = #"""
        "/v1/preferences/{id}/corrections": {
          "post": {
            "operationId": "correctPreference",
            "summary": "Replace what a pair or a rating says, or restore one that was retracted",
            "description": "The new label replaces the old one whole; what was said before stays in the history, and frozen snapshots keep it. Saying what it says already changes nothing.",
            "parameters": [
              {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}, "example": "pair_0f3a"},
              {"$ref": "#/components/parameters/DryRun"},
              {"$ref": "#/components/parameters/IdempotencyKey"},
              {"$ref": "#/components/parameters/ContentEncoding"}
            ],
            "requestBody": {
              "required": true,
              "content": {
                "application/json": {
                  "schema": {"$ref": "#/components/schemas/Correction"},
                  "examples": {
                    "pair": {"value": {"outcome": "b", "reason": "the export had the sides swapped", "by": "ada"}},
                    "rating": {"value": {"rating": 4, "reason": "slip of the mouse"}},
                    "restore": {"value": {"retracted": false, "reason": "was retracted by mistake"}}
                  }
                }
              }
            },
            "responses": {
              "200": {"description": "The label as it is now", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Label"}}}},
              "404": {"$ref": "#/components/responses/Problem"},
              "409": {"$ref": "#/components/responses/Problem"},
              "413": {"$ref": "#/components/responses/Problem"},
              "415": {"$ref": "#/components/responses/Problem"},
              "422": {"$ref": "#/components/responses/Problem"},
              "503": {"$ref": "#/components/responses/Problem"}
            }
          }
        },
        "/v1/preferences/{id}/history": {
          "get": {
            "operationId": "preferenceHistory",
            "summary": "What a pair or a rating said, who changed it, when and why, oldest first",
            "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}, "example": "pair_0f3a"}],
            "responses": {
              "200": {
                "description": "The revisions",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/History"}, "examples": {"corrected": {"value": {"id": "pair_0f3a", "items": [
                  {"revision": 0, "action": "posted", "label": {"outcome": "a"}, "by": "r1", "at": "2026-01-05T09:00:00.000Z"},
                  {"revision": 1, "action": "corrected", "label": {"outcome": "b"}, "by": "ada", "at": "2026-01-06T10:00:00.000Z", "reason": "the export had the sides swapped"}
                ]}}}}}
              },
              "404": {"$ref": "#/components/responses/Problem"},
              "503": {"$ref": "#/components/responses/Problem"}
            }
          }
        },
        "/v1/dimensions": {
          "get": {
            "operationId": "listDimensions",
            "summary": "What can be judged",
            "responses": {
              "200": {
                "description": "The known dimensions",
                "content": {"application/json": {"schema": {"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": {"$ref": "#/components/schemas/Dimension"}}}}}}
              },
              "503": {"$ref": "#/components/responses/Problem"}
            }
          }
        },
        "/v1/dimensions/{name}": {
          "put": {
            "operationId": "defineDimension",
            "summary": "Make a dimension known, or describe a known one anew",
            "parameters": [
              {"name": "name", "in": "path", "required": true, "schema": {"type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$"}, "example": "hands"},
              {"$ref": "#/components/parameters/DryRun"},
              {"$ref": "#/components/parameters/IdempotencyKey"},
              {"$ref": "#/components/parameters/ContentEncoding"}
            ],
            "requestBody": {
              "required": true,
              "content": {"application/json": {
                "schema": {"type": "object", "additionalProperties": false, "required": ["description"], "properties": {"description": {"type": "string", "minLength": 1, "maxLength": 2000}}},
                "examples": {"hands": {"value": {"description": "Do hands have five fingers?"}}}
              }}
            },
            "responses": {
              "409": {"$ref": "#/components/responses/Problem"},
              "200": {"description": "It was known, or a dry run", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Dimension"}}}},
              "201": {"description": "It is new", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Dimension"}}}},
              "400": {"$ref": "#/components/responses/Problem"},
              "413": {"$ref": "#/components/responses/Problem"},
              "415": {"$ref": "#/components/responses/Problem"},
              "422": {"$ref": "#/components/responses/Problem"},
              "503": {"$ref": "#/components/responses/Problem"}
            }
          }
        },
        "/v1/snapshots": {
          "get": {
            "operationId": "listSnapshots",
            "summary": "Frozen data sets, newest first",
            "parameters": [
              {"name": "dimension", "in": "query", "schema": {"type": "string"}, "example": "overall"},
              {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}},
              {"name": "cursor", "in": "query", "description": "`next` of the page before", "schema": {"type": "string"}}
            ],
            "responses": {
              "200": {
                "description": "A page",
                "content": {"application/json": {"schema": {"type": "object", "required": ["items", "next"], "properties": {"items": {"type": "array", "items": {"$ref": "#/components/schemas/Snapshot"}}, "next": {"type": ["string", "null"]}}}}}
              },
              "400": {"$ref": "#/components/responses/Problem"},
              "503": {"$ref": "#/components/responses/Problem"}
            }
          },
          "post": {
            "operationId": "freezeSnapshot",
            "summary": "Freeze the usable labels of a dimension as they are now",
            "description": "Immutable: corrections and retractions change later snapshots only. A prompt keeps the side of the split that it got first.",
            "parameters": [
              {"$ref": "#/components/parameters/DryRun"},
              {"$ref": "#/components/parameters/IdempotencyKey"},
              {"$ref": "#/components/parameters/ContentEncoding"}
            ],
            "requestBody": {
              "required": true,
              "content": {"application/json": {
                "schema": {"type": "object", "additionalProperties": false, "required": ["dimension"], "properties": {
                  "dimension": {"type": "string", "minLength": 1, "maxLength": 64},
                  "backbone": {"type": ["string", "null"], "minLength": 1, "maxLength": 200, "description": "By name, with or without version or alias; any when left out"},
                  "held_out": {"type": ["number", "null"], "minimum": 0.01, "maximum": 0.9, "default": 0.25}
                }},
                "examples": {"overall": {"value": {"dimension": "overall"}}}
              }}
            },
            "responses": {
              "200": {"description": "A dry run: what would be frozen", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Snapshot"}}}},
              "409": {"$ref": "#/components/responses/Problem"},
              "201": {"description": "The snapshot", "headers": {"Location": {"schema": {"type": "string"}, "example": "/v1/snapshots/7"}}, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Snapshot"}}}},
              "413": {"$ref": "#/components/responses/Problem"},
              "415": {"$ref": "#/components/responses/Problem"},
              "422": {"$ref": "#/components/responses/Problem"},
              "503": {"$ref": "#/components/responses/Problem"}
            }
          }
        },
        "/v1/snapshots/{id}": {
          "get": {
            "operationId": "getSnapshot",
            "summary": "One frozen data set",
            "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}, "example": "7"}],
            "responses": {
              "200": {"description": "The snapshot", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Snapshot"}}}},
              "404": {"$ref": "#/components/responses/Problem"},
              "503": {"$ref": "#/components/responses/Problem"}
            }
          }
        },
        "/v1/snapshots/{id}/pairs": PAIR_LINES,
        "/v1/snapshots/{id}/comparisons": COMPARISON_LINES,
        "/v1/snapshots/{id}/ratings": RATING_LINES
        """#
        .replacing("PAIR_LINES", with: lines("exportPairs", "The labels of pairs as they were frozen, one a rater and line"))
        .replacing(
            "COMPARISON_LINES",
            with: lines("exportComparisons", "What raters say together on each two latents, whichever of them a label calls a, one a line")
        )
        .replacing("RATING_LINES", with: lines("exportRatings", "The ratings as they were frozen, one a rater and line"))

    private static func lines(_ operation: String, _ summary: String) -> String {
        #"""
        {
          "get": {
            "operationId": "\#(operation)",
            "summary": "\#(summary)",
            "description": "Streamed in the snapshot's order. URLs come without their queries, which may hold signatures.",
            "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}, "example": "7"}],
            "responses": {
              "200": {"description": "One JSON object a line", "content": {"application/x-ndjson": {"schema": {"type": "string"}}}},
              "404": {"$ref": "#/components/responses/Problem"},
              "503": {"$ref": "#/components/responses/Problem"}
            }
          }
        }
        """#
    }

    /// The operation `delete` of one label.
    static let retraction = #"""
        {
          "operationId": "retractPreference",
          "summary": "Take a pair, a rating, or a ranking with all its pairs out of later snapshots",
          "description": "Nothing is deleted: the label and its history stay, and frozen snapshots keep it. Retracting again changes nothing.",
          "parameters": [
            {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}, "example": "pair_0f3a"},
            {"name": "reason", "in": "query", "required": true, "schema": {"type": "string", "minLength": 1, "maxLength": 2000}, "example": "misread the guideline"},
            {"name": "by", "in": "query", "description": "Who retracts it", "schema": {"type": "string", "maxLength": 200}, "example": "ada"},
            {"$ref": "#/components/parameters/DryRun"},
            {"$ref": "#/components/parameters/IdempotencyKey"}
          ],
          "responses": {
            "200": {"description": "The label as it is now", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Label"}}}},
            "400": {"$ref": "#/components/responses/Problem"},
            "404": {"$ref": "#/components/responses/Problem"},
            "409": {"$ref": "#/components/responses/Problem"},
            "422": {"$ref": "#/components/responses/Problem"},
            "503": {"$ref": "#/components/responses/Problem"}
          }
        }
        """#

    /// What a rater says about a pair: members of the `properties` of pairs and corrections.
    static let labelProperties = #"""
        "outcome": {"type": "string", "enum": ["a", "b", "tie", "both_bad", "skip"], "description": "May be left out where votes or soft_label give it"},
        "votes": {"$ref": "#/components/schemas/Votes"},
        "soft_label": {"type": "number", "minimum": 0, "maximum": 1, "description": "The probability that a is preferred; must agree with the outcome"},
        "margin": {"type": "number", "minimum": 0, "description": "How much better the preferred side is, in your own unit"},
        "strength": {"type": "integer", "minimum": 0, "maximum": 3, "description": "1 slightly, 2 clearly, 3 much better; 0 for a tie"},
        "presentation": {"type": "string", "enum": ["ab", "ba"], "description": "Which side was shown first or on the left"}
        """#

    /// Members of `components.schemas`.
    static let labelSchemas = #"""
        "Votes": {
          "type": "object",
          "additionalProperties": false,
          "required": ["a", "b"],
          "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"type": "integer", "minimum": 0}, "tie": {"type": "integer", "minimum": 0}, "both_bad": {"type": "integer", "minimum": 0}}
        },
        "NewLabel": {
          "description": "A pair, a ranking or a rating; `type` says which, and is `pair` when it is not there",
          "oneOf": [{"$ref": "#/components/schemas/NewPair"}, {"$ref": "#/components/schemas/NewRanking"}, {"$ref": "#/components/schemas/NewRating"}]
        },
        "NewRanking": {
          "type": "object",
          "additionalProperties": false,
          "required": ["type", "source", "external_id", "prompt", "dimension", "rater", "items"],
          "properties": {
            "type": {"const": "ranking"},
            "source": {"type": "string", "minLength": 1}, "external_id": {"type": "string", "minLength": 1},
            "prompt": {"type": "string", "minLength": 1}, "dimension": {"type": "string", "minLength": 1}, "rater": {"type": "string", "minLength": 1},
            "items": {
              "type": "array", "minItems": 2, "maxItems": ITEM_LIMIT,
              "items": {
                "type": "object", "additionalProperties": false, "required": ["url", "sha256", "rank"],
                "properties": {
                  "url": {"type": "string", "maxLength": 8192}, "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
                  "rank": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "1 is best; equal ranks are ties"}
                }
              }
            }
          }
        },
        "NewRating": {
          "type": "object",
          "additionalProperties": false,
          "required": ["type", "source", "external_id", "prompt", "dimension", "rater", "latent", "rating"],
          "properties": {
            "type": {"const": "rating"},
            "source": {"type": "string", "minLength": 1}, "external_id": {"type": "string", "minLength": 1},
            "prompt": {"type": "string", "minLength": 1}, "dimension": {"type": "string", "minLength": 1}, "rater": {"type": "string", "minLength": 1},
            "latent": {"$ref": "#/components/schemas/Artifact"},
            "rating": {"$ref": "#/components/schemas/Rating"},
            "scale": {"$ref": "#/components/schemas/Scale"}
          }
        },
        "Rating": {"description": "good or bad, or a number on the scale", "oneOf": [{"type": "string", "enum": ["good", "bad"]}, {"type": "number"}]},
        "Scale": {
          "type": "object", "additionalProperties": false, "required": ["min", "max"],
          "properties": {"min": {"type": "number", "description": "The worst"}, "max": {"type": "number", "description": "The best"}}
        },
        "Correction": {
          "type": "object",
          "additionalProperties": false,
          "required": ["reason"],
          "properties": {
            LABEL_PROPERTIES,
            "rating": {"$ref": "#/components/schemas/Rating"},
            "retracted": {"const": false, "description": "Restores a retracted label; nothing else may be changed with it"},
            "reason": {"type": "string", "minLength": 1, "maxLength": 2000},
            "by": {"type": "string", "maxLength": 200, "description": "Who corrects it"}
          }
        },
        "Label": {
          "description": "A pair, a ranking (with the ids of its pairs) or a rating, as it is now",
          "type": "object",
          "required": ["id", "state"],
          "properties": {
            "id": {"type": "string"}, "type": {"type": "string", "enum": ["ranking", "rating"]}, "state": {"$ref": "#/components/schemas/State"},
            "pairs": {"type": "array", "items": {"type": "string"}},
            "revision": {"type": "integer", "minimum": 1, "description": "Only of a label that was changed"},
            "retracted_at": {"type": "string", "format": "date-time", "description": "Only of a label that is retracted"},
            "dry_run": {"const": true, "description": "Only of a dry run"}
          }
        },
        "History": {
          "type": "object",
          "required": ["id", "items"],
          "properties": {
            "id": {"type": "string"},
            "items": {"type": "array", "items": {
              "type": "object", "required": ["revision", "action", "label", "by", "at"],
              "properties": {
                "revision": {"type": "integer", "minimum": 0}, "action": {"type": "string", "enum": ["posted", "corrected", "retracted", "restored"]},
                "label": {"type": "object"}, "by": {"type": "string"}, "at": {"type": "string", "format": "date-time"}, "reason": {"type": "string"}
              }
            }}
          }
        },
        "Dimension": {
          "type": "object",
          "required": ["name", "description", "created_at"],
          "properties": {"name": {"type": "string"}, "description": {"type": "string"}, "created_at": {"type": "string", "format": "date-time"}, "dry_run": {"const": true, "description": "Only of a dry run"}}
        },
        "Snapshot": {
          "type": "object",
          "required": ["digest", "dimension", "held_out", "pairs", "train", "ratings", "prompts", "frozen_at"],
          "properties": {
            "id": {"type": "integer", "description": "Left out in a dry run"}, "dry_run": {"const": true, "description": "Only of a dry run"}, "digest": {"type": "string"}, "dimension": {"type": "string"}, "backbone": {"type": ["string", "null"]},
            "held_out": {"type": "number"}, "pairs": {"type": "integer"}, "train": {"type": "integer", "description": "Of the pairs, those to train on"},
            "ratings": {"type": "integer"}, "prompts": {"type": "integer"}, "job_id": {"type": ["integer", "null"], "description": "The job that froze it"},
            "frozen_at": {"type": "string", "format": "date-time"}
          }
        }
        """#
        .replacing("LABEL_PROPERTIES", with: labelProperties)
        .replacing("ITEM_LIMIT", with: "\(NewRanking.itemLimit)")
}

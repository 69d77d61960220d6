import Foundation
import HTTPTypes

/// Puts the description of a service, OpenAPI 3.1, together from fragments: each is a JSON object with some of `paths` and `components`, written
/// by whoever wrote the routes. What all services have in common is added here: their own paths, problems, keys, the answers that any
/// operation may give.
public enum OpenAPIDocument {
    /// The document as JSON text.
    ///
    /// - Parameters:
    ///   - title: the service's name for people.
    ///   - description: what it is for, in a sentence or two.
    ///   - fragments: JSON objects. They are part of the program: one that is no JSON, or that says again what another said, ends it.
    public static func render(title: String, description: String, fragments: [String]) -> String {
        var document: [String: Any] = [
            "openapi": "3.1.0", "servers": [["url": "/"]], "security": [["apiKey": [String]()]],
            "info": ["title": title, "version": BuildInformation.version, "description": description],
        ]
        for fragment in [common] + fragments { merge(parse(fragment), into: &document, at: "") }
        var paths = document["paths"] as? [String: [String: Any]] ?? [:]
        for (path, item) in paths { paths[path] = item.mapValues { completed($0, path: path) } }
        document["paths"] = paths
        // A dictionary of strings, numbers and the like always encodes.
        return String(
            decoding: try! JSONSerialization.data(withJSONObject: document, options: [.sortedKeys, .withoutEscapingSlashes]), as: UTF8.self)
    }

    private static func parse(_ fragment: String) -> [String: Any] {
        do {
            let value = try JSONSerialization.jsonObject(with: Data(fragment.utf8))
            guard let object = value as? [String: Any] else { preconditionFailure("a fragment of the OpenAPI document is no object") }
            return object
        } catch {
            preconditionFailure("a fragment of the OpenAPI document is no JSON: \(error)")
        }
    }

    private static func merge(_ new: [String: Any], into old: inout [String: Any], at place: String) {
        for (key, value) in new {
            if var object = old[key] as? [String: Any], let more = value as? [String: Any] {
                merge(more, into: &object, at: "\(place)/\(key)")
                old[key] = object
            } else {
                precondition(old[key] == nil, "two fragments of the OpenAPI document say what \(place)/\(key) is")
                old[key] = value
            }
        }
    }

    /// The answers that every operation may give, and the header that every answer has.
    private static func completed(_ operation: Any, path: String) -> Any {
        guard var operation = operation as? [String: Any], var responses = operation["responses"] as? [String: Any] else {
            return operation
        }
        let isOpen = (operation["security"] as? [Any])?.isEmpty == true
        if path.hasPrefix("/v1/") {
            var usual = ["400": "BadRequest", "429": "TooManyRequests", "500": "InternalError", "503": "Unavailable"]
            if operation["requestBody"] != nil {
                usual.merge(
                    ["408": "TooSlow", "413": "TooLarge", "415": "MediaType", "417": "Expectation"], uniquingKeysWith: { $1 })
            }
            if !isOpen { usual["403"] = "MissingScope" }
            for (status, name) in usual where responses[status] == nil { responses[status] = ["$ref": "#/components/responses/\(name)"] }
        }
        if !isOpen, responses["401"] == nil { responses["401"] = ["$ref": "#/components/responses/Unauthorized"] }
        for (status, response) in responses {
            // A problem that is only named is the usual one of its status.
            if let reference = response as? [String: String], reference["$ref"] == "#/components/responses/Problem",
                let name = problems[status]
            {
                responses[status] = ["$ref": "#/components/responses/\(name)"]
                continue
            }
            guard var response = response as? [String: Any], response["$ref"] == nil else { continue }
            var headers = response["headers"] as? [String: Any] ?? [:]
            headers["X-Request-Id"] = ["$ref": "#/components/headers/RequestId"]
            response["headers"] = headers
            responses[status] = response
        }
        operation["responses"] = responses
        return operation
    }

    private static let problems = [
        "400": "BadRequest", "401": "Unauthorized", "403": "MissingScope", "404": "NotFound", "408": "TooSlow", "409": "Conflict",
        "413": "TooLarge", "415": "MediaType", "417": "Expectation", "422": "Invalid", "429": "TooManyRequests", "500": "InternalError",
        "502": "Upstream", "503": "Unavailable",
    ]

    /// A problem's response: its description, an example, further headers.
    private static func problem(_ problem: Problem, _ description: String, instance: String = "/v1/preferences") -> String {
        var document = problem.document
        document.instance = instance
        document.requestID = "5f3a9c0d1e2b4a68"
        var headers = [##""X-Request-Id": {"$ref": "#/components/headers/RequestId"}"##]
        for field in problem.headers where field.name != .connection {
            let type = field.name == .retryAfter ? "integer" : "string"
            let example = field.name == .retryAfter ? field.value : JSONText.quoted(field.value)
            headers.append("\(JSONText.quoted(field.name.rawName)): {\"schema\": {\"type\": \"\(type)\"}, \"example\": \(example)}")
        }
        return """
            {"description": \(JSONText.quoted(description)), "headers": {\(headers.joined(separator: ", "))},
             "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"},
             "examples": {"usual": {"value": \(String(decoding: document.json(), as: UTF8.self))}}}}}
            """
    }

    private static var tooMany: Problem {
        var problem = Problem.tooManyRequests("More than 10 requests a second (20 at once) by this caller.")
        problem.headers[HTTPField.Name("RateLimit-Policy")!] = "\"default\";q=20;w=2"
        problem.headers[HTTPField.Name("RateLimit")!] = "\"default\";r=0;t=1"
        return problem
    }

    private static let common = """
        {
          "paths": {
            "/livez": {"get": {"operationId": "livez", "tags": ["operations"], "summary": "Whether the process is alive", "security": [], "responses": {"200": {"description": "It is", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}, "examples": {"alive": {"value": {"status": "alive"}}}}}}}}},
            "/readyz": {"get": {"operationId": "readyz", "tags": ["operations"], "summary": "Whether it can do its work now", "security": [], "responses": {"200": {"description": "It can", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}, "examples": {"ready": {"value": {"status": "ready"}}}}}}, "503": {"$ref": "#/components/responses/Unavailable"}}}},
            "/metrics": {"get": {"operationId": "metrics", "tags": ["operations"], "summary": "Metrics as Prometheus reads them", "security": [], "responses": {"200": {"description": "Text exposition format", "content": {"text/plain; version=0.0.4; charset=utf-8": {"schema": {"type": "string"}}}}}}},
            "/version": {"get": {"operationId": "version", "tags": ["operations"], "summary": "Which service of which version answers", "responses": {"200": {"description": "Its name and version", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Version"}, "examples": {"ingest": {"value": {"service": "ingest", "version": "0.1.0"}}}}}}}}},
            "/problems": {"get": {"operationId": "problems", "tags": ["operations"], "summary": "What the types of problem documents mean", "security": [], "responses": {"200": {"description": "A page", "content": {"text/html; charset=utf-8": {"schema": {"type": "string"}}}}}}},
            "/openapi.json": {"get": {"operationId": "openapi", "tags": ["operations"], "summary": "This document", "security": [], "responses": {"200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}}}}}
          },
          "components": {
            "securitySchemes": {
              "apiKey": {"type": "http", "scheme": "bearer", "bearerFormat": "ft_[0-9A-Za-z]{57}", "description": "An API key: `foretaste keys create` makes keys, `foretaste up` writes one for its run into the ready file. Scopes: ingest (post), read, score, admin (everything, and the audit log)."}
            },
            "headers": {
              "RequestId": {"description": "The request's id: the client's own X-Request-Id where it sent one of up to 64 letters, digits, '-', '_' and '.', else a new one. Log lines and the audit log have it too.", "schema": {"type": "string"}, "example": "5f3a9c0d1e2b4a68"}
            },
            "responses": {
              "BadRequest": \(problem(.badRequest("Unknown parameter 'page'; known are cursor, dimension, limit, source, state."), "A parameter or header field cannot be understood")),
              "Unauthorized": \(problem(.unauthorized("The API key dLsFc3Yq was revoked at 2026-11-21T09:12:40Z.", error: "invalid_token"), "No valid API key")),
              "MissingScope": \(problem(.missingScope(.ingest, key: "dLsFc3Yq"), "The API key lacks a scope")),
              "NotFound": \(problem(.notFound("There is no pair with the id 'pair_0f3a'."), "There is no such thing", instance: "/v1/preferences/pair_0f3a")),
              "TooSlow": \(problem(Problem(.requestTimeout, "The connection ended in the middle of the body; nothing of it was stored."), "The request did not arrive in time")),
              "Conflict": \(problem(.conflict("pair_0f3a is retracted. Restore it first."), "It contradicts what is stored", instance: "/v1/preferences/pair_0f3a/corrections")),
              "TooLarge": \(problem(.tooLarge(limit: 8_388_608), "The body is over the limit, as it is or unpacked")),
              "MediaType": \(problem(.unsupportedMediaType(found: "text/plain", expected: ["application/json", "application/x-ndjson"]), "The body's Content-Type or Content-Encoding is not one that is read here")),
              "Expectation": \(problem(Problem(.expectationFailed, "Expect is 'a miracle'; 100-continue is what is understood here."), "Expect asks for something other than 100-continue")),
              "Invalid": \(problem(.invalid([.init(pointer: "/a/sha256", detail: "is required")]), "The content is wrong, place by place")),
              "TooManyRequests": \(problem(tooMany, "More than is served at a time. Where the operator limits callers, their other answers have RateLimit and RateLimit-Policy too")),
              "InternalError": \(problem(.internalError(), "Something failed on our side")),
              "Upstream": \(problem(Problem(.badGateway, "http://127.0.0.1:9000/latents.safetensors cannot be reached: Couldn't connect to server."), "An artifact store did not give what was needed")),
              "Unavailable": \(problem(.unavailable("The database does not answer now; nothing was lost, send the request again."), "Not now; nothing was stored"))
            },
            "schemas": {
              "Status": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string", "enum": ["alive", "ready"]}}},
              "Version": {"type": "object", "required": ["service", "version"], "properties": {"service": {"type": "string"}, "version": {"type": "string"}}},
              "FieldError": {
                "type": "object", "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string", "description": "RFC 6901; empty for the whole document"}, "detail": {"type": "string"}}
              },
              "Problem": {
                "type": "object", "required": ["type", "title", "status"], "description": "RFC 9457",
                "properties": {
                  "type": {"type": "string", "format": "uri-reference", "description": "Leads to the explanation of this kind of problem"},
                  "title": {"type": "string"},
                  "status": {"type": "integer"},
                  "detail": {"type": "string"},
                  "instance": {"type": "string", "description": "The request's path"},
                  "request_id": {"type": "string"},
                  "errors": {"type": "array", "items": {"$ref": "#/components/schemas/FieldError"}}
                }
              }
            }
          }
        }
        """
}

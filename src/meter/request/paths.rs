//! The paths of every family, one by one: what is known is known exactly, and what spends unseen is not known.

use super::PathClass::{Free, Metered, Stored, Unknown};
use super::{classify, form, speaks_socket};
use crate::types::{Api, ApiFamily};

#[test]
fn paths_are_known_exactly_or_not_at_all() {
    use Api::{Anthropic, BedrockConverse, BedrockInvoke, Gemini, OpenaiChat, OpenaiResponses};
    const VERTEX: &str = "/v1/projects/p/locations/global/publishers";
    for (family, method, path, class) in [
        (ApiFamily::Anthropic, "POST", "/v1/messages", Metered(Anthropic)),
        (ApiFamily::Anthropic, "POST", "/v1/messages/count_tokens", Free(Anthropic)),
        (ApiFamily::Anthropic, "GET", "/v1/models/claude-x", Free(Anthropic)),
        (ApiFamily::Anthropic, "GET", "/v1/models/a/b", Unknown),
        (ApiFamily::Anthropic, "POST", "/v1/messages/", Unknown),
        (ApiFamily::Anthropic, "POST", "/v1/messages/batches", Unknown),
        (ApiFamily::Anthropic, "POST", "/v1/files", Unknown),
        (ApiFamily::Anthropic, "GET", "/v1/messages", Unknown),
        (ApiFamily::Anthropic, "post", "/v1/messages", Unknown),
        (ApiFamily::Anthropic, "POST", "/v1/responses", Unknown),
        (ApiFamily::OpenaiResponses, "POST", "/v1/responses", Metered(OpenaiResponses)),
        (ApiFamily::OpenaiResponses, "POST", "/backend-api/codex/responses/compact", Metered(OpenaiResponses)),
        (ApiFamily::OpenaiResponses, "POST", "/v1/responses/input_tokens", Free(OpenaiResponses)),
        (ApiFamily::OpenaiResponses, "GET", "/backend-api/codex/models", Free(OpenaiResponses)),
        (ApiFamily::OpenaiResponses, "GET", "/v1/responses/resp_1", Stored(OpenaiResponses)),
        (ApiFamily::OpenaiResponses, "POST", "/v1/responses/resp_1/cancel", Free(OpenaiResponses)),
        (ApiFamily::OpenaiResponses, "DELETE", "/v1/responses/resp_1", Unknown),
        (ApiFamily::OpenaiResponses, "GET", "/v1/responses/resp_1/input_items", Unknown),
        (ApiFamily::OpenaiResponses, "GET", "/v1/responses/x", Unknown),
        (ApiFamily::OpenaiResponses, "POST", "/v1/chat/completions", Unknown),
        (ApiFamily::OpenaiChat, "POST", "/v1/chat/completions", Metered(OpenaiChat)),
        (ApiFamily::OpenaiChat, "POST", "/api/v1/chat/completions", Metered(OpenaiChat)),
        (ApiFamily::OpenaiChat, "GET", "/v1/models", Free(OpenaiChat)),
        (ApiFamily::OpenaiChat, "GET", "/v1/chat/completions", Unknown),
        (ApiFamily::OpenaiChat, "POST", "/v1/completions", Unknown),
        (ApiFamily::OpenaiChat, "POST", "/v1/embeddings", Unknown),
        (ApiFamily::OpenaiChat, "POST", "/v1/responses", Unknown),
        (ApiFamily::Openai, "POST", "/v1/chat/completions", Metered(OpenaiChat)),
        (ApiFamily::Openai, "POST", "/v1/responses", Metered(OpenaiResponses)),
        (ApiFamily::Openai, "GET", "/v1/models", Free(OpenaiResponses)),
        (ApiFamily::Openai, "POST", "/v1/batches", Unknown),
        (ApiFamily::Openai, "POST", "/v1/files", Unknown),
        (ApiFamily::Openai, "POST", "/v1/realtime/sessions", Unknown),
        (ApiFamily::Openai, "POST", "/v1/realtime/client_secrets", Unknown),
        (ApiFamily::Openai, "POST", "/v1/audio/speech", Unknown),
        (ApiFamily::Openai, "POST", "/v1/images/generations", Unknown),
        (ApiFamily::Openai, "POST", "/v1/fine_tuning/jobs", Unknown),
        (ApiFamily::Gemini, "POST", "/v1beta/models/g:generateContent", Metered(Gemini)),
        (ApiFamily::Gemini, "POST", "/v1beta/models/g:batchGenerateContent", Unknown),
        (ApiFamily::Gemini, "POST", "/v1internal:generateContent", Unknown),
        (ApiFamily::CodeAssist, "POST", "/v1internal:generateContent", Metered(Gemini)),
        (ApiFamily::CodeAssist, "POST", "/v1internal:streamGenerateContent", Metered(Gemini)),
        (ApiFamily::CodeAssist, "POST", "/v1internal:countTokens", Free(Gemini)),
        (ApiFamily::CodeAssist, "POST", "/v1internal:loadCodeAssist", Free(Gemini)),
        (ApiFamily::CodeAssist, "GET", "/v1internal/operations/x", Free(Gemini)),
        (ApiFamily::CodeAssist, "POST", "/v1internal:somethingNew", Unknown),
        (ApiFamily::CodeAssist, "POST", "/v1internal:", Unknown),
        (ApiFamily::Bedrock, "POST", "/model/a.b-v1:0/converse", Metered(BedrockConverse)),
        (ApiFamily::Bedrock, "POST", "/model/a.b-v1:0/converse-stream", Metered(BedrockConverse)),
        (ApiFamily::Bedrock, "POST", "/model/arn:aws:bedrock:r:1:inference-profile/x/invoke", Metered(BedrockInvoke)),
        (ApiFamily::Bedrock, "POST", "/model/x/invoke-with-response-stream", Metered(BedrockInvoke)),
        (ApiFamily::Bedrock, "POST", "/model/x/count-tokens", Free(BedrockConverse)),
        (ApiFamily::Bedrock, "POST", "/model/x/invoke-with-bidirectional-stream", Unknown),
        (ApiFamily::Bedrock, "POST", "/model//converse", Unknown),
        (ApiFamily::Bedrock, "POST", "/async-invoke", Unknown),
        (ApiFamily::Bedrock, "POST", "/model-invocation-job", Unknown),
        (ApiFamily::Bedrock, "GET", "/model/x/converse", Unknown),
    ] {
        assert_eq!(classify(family, method, path), class, "{family:?} {method} {path}");
    }
    for (path, class) in [
        ("/google/models/g:generateContent", Metered(Gemini)),
        ("/google/models/g:streamGenerateContent", Metered(Gemini)),
        ("/google/models/g:countTokens", Free(Gemini)),
        ("/google/models/g:predict", Unknown),
        ("/anthropic/models/c@2026:streamRawPredict", Metered(Anthropic)),
        ("/anthropic/models/c@2026:rawPredict", Metered(Anthropic)),
        ("/anthropic/models/count-tokens:rawPredict", Free(Anthropic)),
        ("/anthropic/models/count-tokens:streamRawPredict", Metered(Anthropic)),
        ("/meta/models/l:rawPredict", Unknown),
        ("/google/models/:generateContent", Unknown),
        ("/google/models/a/b:generateContent", Unknown),
    ] {
        // A key says the project; else the path does, and where.
        for before in [VERTEX, "/v1beta1/publishers"] {
            assert_eq!(classify(ApiFamily::Vertex, "POST", &format!("{before}{path}")), class, "{before}{path}");
            assert_eq!(classify(ApiFamily::Vertex, "GET", &format!("{before}{path}")), Unknown, "{before}{path}");
        }
    }
}

#[test]
fn what_spends_and_is_asked_for_later_is_known_to_no_family() {
    // Batches, realtime, files and the jobs made of them: each API's own paths, asked of every family.
    for path in [
        "/v1/messages/batches",
        "/v1/batches",
        "/v1/realtime",
        "/v1/realtime/sessions",
        "/v1/files",
        "/v1/fine_tuning/jobs",
        "/v1/vector_stores",
        "/v1/assistants",
        "/v1/threads/runs",
        "/v1/videos",
        "/upload/v1beta/files",
        "/v1beta/files",
        "/v1beta/cachedContents",
        "/v1beta/models/g:batchGenerateContent",
        "/v1beta/models/g:predictLongRunning",
        "/v1/projects/p/locations/l/batchPredictionJobs",
        "/model-invocation-job",
        "/async-invoke",
    ] {
        for family in ApiFamily::ALL {
            for method in ["POST", "PUT"] {
                assert_eq!(classify(family, method, path), Unknown, "{family:?} {method} {path}");
            }
            assert!(!speaks_socket(family, path), "{family:?} {path}");
        }
    }
}

#[test]
fn a_refusal_has_the_form_of_what_was_asked() {
    for (family, path, api) in [
        (ApiFamily::Openai, "/v1/chat/completions", Api::OpenaiChat),
        (ApiFamily::Openai, "/v1/responses", Api::OpenaiResponses),
        (ApiFamily::Openai, "/v1/anything", Api::OpenaiResponses),
        (ApiFamily::Bedrock, "/model/x/invoke", Api::BedrockInvoke),
        (ApiFamily::Vertex, "/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict", Api::Anthropic),
    ] {
        assert_eq!(form(family, "POST", path), api, "{path}");
    }
}

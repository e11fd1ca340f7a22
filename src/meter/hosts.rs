//! The hosts at which model APIs are known to live: a route to one of them is metered or it is none.
//!
//! Each host by what its vendor documents: Anthropic API reference (base address), OpenAI API reference and the Codex CLI
//! (ChatGPT's backend), Gemini API reference, Code Assist as the Gemini CLI uses it, Vertex AI (regional endpoints),
//! Amazon Bedrock (service endpoints).

/// How a list of hosts is written: a name, or what stands before and after a region.
enum At {
    Host(&'static str),
    /// Names that end in this, whatever stands before it.
    End(&'static str),
    /// Names that begin and end in these.
    Between(&'static str, &'static str),
}

const KNOWN: [At; 14] = [
    At::Host("api.anthropic.com"),
    At::Host("api.openai.com"),
    At::End(".api.openai.com"),
    At::Host("chatgpt.com"),
    At::Host("generativelanguage.googleapis.com"),
    At::Host("cloudcode-pa.googleapis.com"),
    At::Host("aiplatform.googleapis.com"),
    At::End("-aiplatform.googleapis.com"),
    At::Between("bedrock-runtime.", ".amazonaws.com"),
    At::Between("bedrock-runtime-fips.", ".amazonaws.com"),
    At::Between("bedrock-runtime.", ".api.aws"),
    At::Between("bedrock-mantle.", ".api.aws"),
    At::Between("aiplatform.", ".rep.googleapis.com"),
    At::End(".openai.azure.com"),
];

/// Tells whether a model API is known to live at `host`, which is in canonical form.
pub fn is_model_host(host: &str) -> bool {
    KNOWN.iter().any(|at| match at {
        At::Host(name) => host == *name,
        At::End(end) => host.len() > end.len() && host.ends_with(end),
        At::Between(start, end) => host.starts_with(start) && host.ends_with(end),
    })
}

/// Tells whether names that end in `suffix`, which begins with a dot, can be such hosts.
pub fn any_below(suffix: &str) -> bool {
    KNOWN.iter().any(|at| match at {
        At::Host(name) => name.ends_with(suffix),
        // `-x.example` ends where `.example` and `.y-x.example` do.
        At::End(end) | At::Between(_, end) => end.ends_with(suffix) || suffix.ends_with(end),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_hosts_are_known_by_name_and_by_region() {
        for host in [
            "api.anthropic.com",
            "api.openai.com",
            "eu.api.openai.com",
            "europe-west1-aiplatform.googleapis.com",
            "bedrock-runtime.us-east-1.amazonaws.com",
            "bedrock-runtime.us-east-1.api.aws",
            "bedrock-mantle.us-east-1.api.aws",
            "aiplatform.eu.rep.googleapis.com",
            "mine.openai.azure.com",
        ] {
            assert!(is_model_host(host), "{host}");
        }
        for host in
            ["anthropic.com", "docs.anthropic.com", "storage.googleapis.com", "s3.amazonaws.com", "evilapi.openai.com"]
        {
            assert!(!is_model_host(host), "{host}");
        }
    }

    #[test]
    fn a_suffix_that_takes_one_in_is_known() {
        for suffix in [
            ".anthropic.com",
            ".openai.com",
            ".googleapis.com",
            ".amazonaws.com",
            ".us-east-1.amazonaws.com",
            ".openai.azure.com",
        ] {
            assert!(any_below(suffix), "{suffix}");
        }
        for suffix in [".example.com", ".github.com", ".chatgpt.com"] {
            assert!(!any_below(suffix), "{suffix}");
        }
    }
}

//! The section of what the process tells a collector of traces.

use reqwest::Url;

use super::{ConfigError, raw, value};

const KEY: &str = "telemetry.otlp_endpoint";

/// Where traces go.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// The collector's base URL for OTLP over HTTP; `None`: no traces.
    pub otlp_endpoint: Option<Url>,
}

impl Telemetry {
    pub(super) fn check(raw: &raw::Telemetry) -> Result<Self, ConfigError> {
        // An empty one is what an unset variable of a compose file leaves behind.
        let given = raw.otlp_endpoint.as_deref().filter(|url| !url.is_empty());
        Ok(Self { otlp_endpoint: given.map(endpoint).transpose()? })
    }

    /// What is needed before any job is traced: a build that can.
    pub(super) fn check_built(&self, has_otel: bool) -> Result<(), ConfigError> {
        match &self.otlp_endpoint {
            Some(endpoint) if !has_otel => Err(ConfigError::wrong(
                KEY,
                format_args!("\"{endpoint}\", and this build of resetd has no OpenTelemetry"),
                "unset, or resetd built with it: cargo build --release --features otel",
            )),
            Some(_) | None => Ok(()),
        }
    }
}

fn endpoint(text: &str) -> Result<Url, ConfigError> {
    let wants = "the http:// or https:// URL of a collector that takes OTLP over HTTP, without user, query and fragment, such as http://127.0.0.1:4318";
    value::url(KEY, text, wants)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry(endpoint: &str) -> Result<Telemetry, ConfigError> {
        Telemetry::check(&raw::Telemetry { otlp_endpoint: Some(endpoint.to_owned()) })
    }

    #[test]
    fn a_build_without_open_telemetry_refuses_an_endpoint_and_says_what_to_do() {
        let set = telemetry("http://collector:4318").unwrap();
        let error = set.check_built(false).unwrap_err().to_string();
        for part in [KEY, "http://collector:4318", "--features otel"] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert_eq!(set.check_built(true), Ok(()));
        assert_eq!(telemetry("").unwrap().check_built(false), Ok(()), "no traces are no trouble");
    }

    #[test]
    fn an_endpoint_is_a_url_of_http_without_a_secret_in_it() {
        for good in ["http://127.0.0.1:4318", "https://collector.example.com/otlp/"] {
            assert!(telemetry(good).unwrap().otlp_endpoint.is_some(), "{good}");
        }
        for bad in
            ["127.0.0.1:4318", "grpc://collector:4317", "https://user:s3cr3t@collector", "http://collector?key=1"]
        {
            let error = telemetry(bad).unwrap_err().to_string();
            assert!(error.contains(KEY) && error.contains("http://127.0.0.1:4318"), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }
}

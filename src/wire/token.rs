//! The token endpoint's answers (RFC 6749, sections 5.1 and 5.2; Genesys Cloud says `description` too).

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

/// A token that was granted.
#[derive(Debug, Deserialize)]
pub struct Granted {
    /// What goes into `Authorization: Bearer`.
    pub access_token: SecretString,
    /// Seconds until it expires; 300, Genesys Cloud's shortest, where the answer does not say.
    #[serde(default = "shortest", deserialize_with = "seconds")]
    expires_in: f64,
    /// Its scopes, where the provider speaks of them.
    pub scope: Option<String>,
}

/// A number, or one written as text, as some providers do.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let number = value.as_str().map_or_else(|| value.as_f64(), |text| text.parse().ok());
    Ok(number.unwrap_or_else(shortest))
}

fn shortest() -> f64 {
    300.0
}

impl Granted {
    /// How long it is valid.
    pub fn lifetime(&self) -> Duration {
        Duration::try_from_secs_f64(self.expires_in.clamp(0.0, 1e9)).unwrap_or_default()
    }

    /// Those of the required scopes that it lacks; none where the answer has no `scope`.
    pub fn missing<'a>(&self, required: &'a [String]) -> Vec<&'a str> {
        let Some(scope) = &self.scope else { return Vec::new() };
        let has = |wanted: &&str| scope.split([' ', ',']).any(|given| given == *wanted);
        required.iter().map(String::as_str).filter(|wanted| !has(wanted)).collect()
    }
}

/// Why none was granted, in the provider's words.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refused {
    error: String,
    description: String,
    error_description: String,
}

impl Refused {
    /// `error: description`, or nothing where the body said nothing.
    pub fn line(&self) -> String {
        let description = if self.description.is_empty() { &self.error_description } else { &self.description };
        [self.error.as_str(), description].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }

    /// Whether it is the client that is refused, and not this one request.
    pub fn is_client(&self) -> bool {
        matches!(
            self.error.as_str(),
            "invalid_client"
                | "unauthorized_client"
                | "invalid_scope"
                | "invalid_grant"
                | "unsupported_grant_type"
                | "invalid_request"
                | "access_denied"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_scopes_are_named_only_where_the_answer_has_scopes() {
        let granted = |scope: &str| -> Granted {
            serde_json::from_str(&format!(r#"{{"access_token":"t","token_type":"bearer","expires_in":60{scope}}}"#))
                .unwrap()
        };
        let required = ["scim:users:write".to_owned(), "users".to_owned()];
        assert!(granted("").missing(&required).is_empty());
        assert!(granted(r#","scope":"users scim:users:write""#).missing(&required).is_empty());
        assert_eq!(granted(r#","scope":"users scim:users""#).missing(&required), ["scim:users:write"]);
    }

    #[test]
    fn the_providers_words_are_kept() {
        let refused: Refused = serde_json::from_str(
            r#"{"error":"invalid_client","description":"client not found","error_description":"client not found"}"#,
        )
        .unwrap();
        assert_eq!(refused.line(), "invalid_client: client not found");
    }
}

//! The access tokens in force.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Tokens and when each of them expires, since the start of the org. No `Debug`: the keys are secret.
#[derive(Default)]
pub(super) struct Tokens {
    expiries: HashMap<String, Duration>,
}

impl Tokens {
    /// A new random token that is good for `ttl`.
    pub(super) fn issue(&mut self, now: Duration, ttl: Duration) -> String {
        self.expiries.retain(|_, expiry| now < *expiry);
        let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        self.expiries.insert(token.clone(), now.saturating_add(ttl));
        token
    }

    pub(super) fn accepts(&self, token: &str, now: Duration) -> bool {
        self.expiries.get(token).is_some_and(|expiry| now < *expiry)
    }

    pub(super) fn revoke_all(&mut self) {
        self.expiries.clear();
    }
}

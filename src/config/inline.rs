//! Which secrets a file of the configuration holds itself, where another file could be named: such a file is looked at as those are.

use reqwest::Url;

use super::variables::{CLIENT_SECRET, MAIL_SERVICE_URL};

/// What anybody may know: it is RabbitMQ's own, who takes it from the broker's own machine alone.
const KNOWN: &str = "guest";

/// The keys of a file that have a secret for a value.
pub(super) fn keys(file: &toml::Table) -> Vec<String> {
    let mut keys = Vec::new();
    walk(&mut Vec::new(), file, &mut keys);
    keys.sort();
    keys
}

fn walk<'a>(path: &mut Vec<&'a str>, table: &'a toml::Table, keys: &mut Vec<String>) {
    for (key, value) in table {
        path.push(key);
        if let Some(table) = value.as_table() {
            walk(path, table, keys);
        } else if value.as_str().is_some_and(|text| is_secret(path, text)) {
            keys.push(path.join("."));
        }
        path.pop();
    }
}

/// Whether a variable has a secret for a value.
pub(super) fn is_secret_variable(name: &str, text: &str) -> bool {
    match name.strip_prefix("RESETD__") {
        Some(key) => {
            let key = key.to_ascii_lowercase();
            is_secret(&key.split("__").collect::<Vec<_>>(), text)
        }
        None if name == CLIENT_SECRET => !text.is_empty(),
        None => (name == MAIL_SERVICE_URL || name.to_ascii_lowercase().ends_with("_proxy")) && is_secret_url(text),
    }
}

fn is_secret(key: &[&str], text: &str) -> bool {
    match key {
        ["orgs", _, "client_secret"] | ["http", "token"] | ["mailer", _, "password" | "token"] => !text.is_empty(),
        ["amqp", "url" | "management_url"] | ["http", "proxy"] | ["mailer", _, "url"] => is_secret_url(text),
        _ => false,
    }
}

/// Whether a URL has a password, or a query, where many a service wants its key.
fn is_secret_url(text: &str) -> bool {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let Ok(url) = Url::parse(&whole) else { return false };
    url.password().is_some_and(|password| !password.is_empty() && password != KNOWN)
        || url.query().is_some_and(|query| !query.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_where_its_value_is_a_secret() {
        for (text, expected) in [
            ("http.token = 'x'", &["http.token"][..]),
            ("http.token = ''", &[]),
            ("http.token_file = 'x'", &[]),
            (
                "orgs.a.client_secret = 'x'\norgs.b.client_secret = 'x'",
                &["orgs.a.client_secret", "orgs.b.client_secret"],
            ),
            ("orgs.a.client_id = 'x'", &[]),
            ("mailer.smtp.password = 'x'\nmailer.http.token = 'x'", &["mailer.http.token", "mailer.smtp.password"]),
            ("password.kind = 'hex'", &[]),
            ("amqp.url = 'amqp://guest:guest@127.0.0.1:5672/%2f'", &[]),
            ("amqp.url = 'amqps://u@broker'", &[]),
            ("amqp.url = 'amqps://u:x@broker'", &["amqp.url"]),
            ("amqp.management_url = 'http://rabbit-1:15672'", &[]),
            ("amqp.management_url = 'http://u:x@rabbit-1:15672'", &["amqp.management_url"]),
            ("http.proxy = 'env'", &[]),
            ("http.proxy = 'http://u:x@proxy'", &["http.proxy"]),
            ("mailer.http.url = 'https://mail.example.com/send'", &[]),
            ("mailer.http.url = 'https://mail.example.com/send?key=x'", &["mailer.http.url"]),
        ] {
            assert_eq!(keys(&text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_variable_is_named_where_its_value_is_a_secret() {
        for (name, text, expected) in [
            ("GENESYS_CLIENT_SECRET", "x", true),
            ("GENESYS_CLIENT_SECRET", "", false),
            ("GENESYS_CLIENT_ID", "x", false),
            ("EMAIL_SERVICE_URL", "https://u:x@mail", true),
            ("EMAIL_SERVICE_URL", "https://mail", false),
            ("https_proxy", "u:x@proxy:3128", true),
            ("HTTPS_PROXY", "proxy:3128", false),
            ("RESETD__HTTP__TOKEN", "x", true),
            ("RESETD__HTTP__TOKEN_FILE", "x", false),
            ("RESETD__ORGS__MAIN__CLIENT_SECRET", "x", true),
            ("RESETD__AMQP__URL", "amqps://u:x@broker", true),
            ("RESETD__AMQP__PREFIX", "x", false),
            ("DATABASE_PASSWORD", "x", false),
        ] {
            assert_eq!(is_secret_variable(name, text), expected, "{name}={text}");
        }
    }
}

//! What is taken, what is refused, and in which words.

use std::num::NonZeroU32;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::domain::form::{ExtensionForm, PasswordForm};
use crate::domain::job::Lane;

const COMPLETE: &str = r#"
[orgs.main]
region = "mypurecloud.de"
client_id = "id"
client_secret = "s3cr3t-value"
[wire]
password = "plaintext"
extensions = "urn"
"#;

fn load<const N: usize>(texts: &[&str], variables: [(&str, &str); N]) -> Result<Config, ConfigError> {
    let files: Vec<tempfile::NamedTempFile> = texts.iter().map(|text| file(text)).collect();
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path().to_owned()).collect();
    Config::load(&paths, Environment::of(variables))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn worker<const N: usize>(text: &str, variables: [(&str, &str); N]) -> Result<Worker, ConfigError> {
    load(&[COMPLETE, text], variables)?.worker()
}

/// The configuration is refused, in words that hold all the parts and no secret.
fn refused<const N: usize>(text: &str, variables: [(&str, &str); N], parts: &[&str]) {
    let error = worker(text, variables).expect_err(text).to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(!error.contains("s3cr3t"), "{error}");
}

#[test]
fn the_default_alone_asks_for_both_choices_and_explains_them() {
    let error = load(&[], []).unwrap().worker().unwrap_err().to_string();
    for part in ["wire.password", "sha256", "plaintext", "spec.toml", "genesys-cloud.toml"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(error.matches(". ").count(), 1, "a sentence for each choice: {error}");
    let error = load(&["[wire]\npassword = \"sha256\""], []).unwrap().worker().unwrap_err().to_string();
    assert!(error.contains("wire.extensions") && error.contains("envelope") && error.contains("urn"), "{error}");
}

#[test]
fn a_region_gives_both_urls() {
    let worker = worker("", []).unwrap();
    let org = &worker.orgs["main"];
    assert_eq!(org.token_url.as_str(), "https://login.mypurecloud.de/oauth/token");
    assert_eq!(org.scim_url.as_str(), "https://api.mypurecloud.de/api/v2/scim/v2");
    assert_eq!((org.rate_per_minute.get(), org.burst.get(), org.request_timeout.as_secs()), (300, 1, 10));
    assert_eq!((worker.form.password, worker.form.extensions), (PasswordForm::Plaintext, ExtensionForm::Urn));
}

#[test]
fn the_shipped_files_are_complete_choices() {
    let org = "[orgs.main]\nregion=\"usw2.pure.cloud\"\nclient_id=\"i\"\nclient_secret=\"s\"";
    for (text, password, extensions) in [
        (include_str!("../../config/spec.toml"), PasswordForm::Sha256, ExtensionForm::Envelope),
        (include_str!("../../config/genesys-cloud.toml"), PasswordForm::Plaintext, ExtensionForm::Urn),
    ] {
        let config = load(&[text, org], []).unwrap();
        let form = config.worker().unwrap().form;
        assert_eq!((form.password, form.extensions), (password, extensions));
    }
}

#[test]
fn environment_wins_over_files_and_a_later_file_over_an_earlier() {
    let later = "[amqp]\nprefix = \"later.\"\nprefetch = 8";
    let config = load(&["[amqp]\nprefix = \"earlier.\"", later], [("RESETD__AMQP__PREFETCH", "16")]).unwrap();
    assert_eq!((config.amqp.prefix.as_str(), config.amqp.prefetch), ("later.", 16));
}

#[test]
fn an_org_a_list_and_a_map_key_are_given_by_environment() {
    let variables = [
        ("RESETD__ORGS__EU_WEST_2__REGION", "euw2.pure.cloud"),
        ("RESETD__ORGS__EU_WEST_2__CLIENT_ID", "id"),
        ("RESETD__ORGS__EU_WEST_2__CLIENT_SECRET", "007"),
        ("RESETD__ORGS__EU_WEST_2__RATE_PER_MINUTE", "120"),
        ("RESETD__ORGS__EU_WEST_2__REQUIRED_SCOPES", "a, b"),
        ("RESETD__WIRE__ALLOWED_ATTRIBUTES", "title,genesys:*"),
        ("RESETD__WIRE__PASSWORD", "sha256"),
        ("RESETD__WIRE__EXTENSIONS", "envelope"),
    ];
    let config = load(&[], variables).unwrap();
    assert_eq!(config.allowed_attributes, ["title", "genesys:*"]);
    let worker = config.worker().unwrap();
    let org = &worker.orgs["eu_west_2"];
    assert_eq!(org.client_secret.expose_secret(), "007", "a secret stays the text it was");
    assert_eq!(org.rate_per_minute.get(), 120);
    assert_eq!(org.required_scopes, ["a", "b"]);
}

#[test]
fn the_client_of_main_may_come_from_genesys_variables() {
    let text = "[orgs.main]\nregion = \"mypurecloud.com\"\n[wire]\npassword=\"sha256\"\nextensions=\"urn\"";
    let variables = [("GENESYS_CLIENT_ID", "env-id"), ("GENESYS_CLIENT_SECRET", "env-secret")];
    let worker = load(&[text], variables).unwrap().worker().unwrap();
    assert_eq!(worker.orgs["main"].client_id, "env-id");
    assert_eq!(worker.orgs["main"].client_secret.expose_secret(), "env-secret");
    let error = load(&[&text.replace("main", "other")], variables).unwrap().worker().unwrap_err().to_string();
    assert!(error.contains("orgs.other.client_id is not set") && !error.contains("GENESYS"), "{error}");
    let error = load(&[text], [("GENESYS_CLIENT_ID", "x")]).unwrap().worker().unwrap_err().to_string();
    assert!(error.contains("orgs.main.client_secret is not set") && error.contains("GENESYS_CLIENT_SECRET"), "{error}");
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let secret = file("from-file\n");
    let path = secret.path().to_str().unwrap();
    let text = format!(
        "[orgs.main]\nregion=\"mypurecloud.com\"\nclient_id=\"i\"\nclient_secret_file={path:?}\n[wire]\npassword=\"sha256\"\nextensions=\"urn\""
    );
    let worker = load(&[&text], []).unwrap().worker().unwrap();
    assert_eq!(worker.orgs["main"].client_secret.expose_secret(), "from-file");
    refused(&format!("[orgs.main]\nclient_secret_file={path:?}"), [], &["both set", "orgs.main.client_secret"]);
    let url = file("amqp://user:s3cr3t@broker:5672/%2f");
    let config = load(&[&format!("[amqp]\nurl_file={:?}", url.path())], []).unwrap();
    assert!(config.amqp.url.expose_secret().contains("broker"));
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

/// Takes a secret out of what was read.
type Reader = fn(&Config) -> Option<SecretString>;

/// Each secret that may stand in a file: its section and key, what else the configuration needs, its text, and where it ends up.
fn secrets() -> [(&'static str, &'static str, &'static str, &'static str, Reader); 7] {
    let whole: Reader = |config| Some(config.amqp.url.clone());
    let management: Reader = |config| config.amqp.management_url.clone();
    let page: Reader = |config| config.http.token.clone();
    let proxy: Reader = |config| match &config.http.proxy {
        proxy::Proxy::By(url) => Some(url.clone()),
        proxy::Proxy::Direct { .. } | proxy::Proxy::Environment { .. } => None,
    };
    let client: Reader = |config| Some(config.org("main").ok()?.client_secret);
    let login: Reader = |config| match config.delivery().ok()?.via {
        mailer::Via::Smtp(smtp) => Some(smtp.login?.password),
        mailer::Via::Http(_) => None,
    };
    let bearer: Reader = |config| match config.delivery().ok()?.via {
        mailer::Via::Http(http) => http.token,
        mailer::Via::Smtp(_) => None,
    };
    let org = "[orgs.main]\nregion = \"mypurecloud.de\"\nclient_id = \"id\"\n";
    let smtp = "[mailer]\nfrom = \"a@example.com\"\n[mailer.smtp]\nhost = \"mail\"\nuser = \"u\"\n";
    let http = "[mailer.http]\nurl = \"https://mail.example.com\"\n";
    [
        ("amqp", "url", "", "amqp://u:s3cr3t-in-a-file@broker/%2f", whole),
        ("amqp", "management_url", "", "http://u:s3cr3t-in-a-file@rabbit:15672", management),
        ("http", "token", "", "9c01f7a4e25b8d63e0f75c0e9fb1d73a", page),
        ("http", "proxy", "", "http://u:s3cr3t-in-a-file@proxy/", proxy),
        ("orgs.main", "client_secret", org, "s3cr3t-in-a-file", client),
        ("mailer.smtp", "password", smtp, "s3cr3t-in-a-file", login),
        ("mailer.http", "token", http, "s3cr3t-in-a-file", bearer),
    ]
}

/// A secret in a file, with the line break that an editor leaves at its end.
#[test]
fn every_secret_may_stand_in_a_file_and_its_line_break_is_not_part_of_it() {
    let secrets = secrets();
    for (section, key, beside, secret, read) in secrets {
        // A Windows editor may begin the file with a byte order mark.
        for (begin, end) in [("", ""), ("", "\n"), ("", "\r\n"), ("\u{feff}", "\r\n")] {
            let file = file(&format!("{begin}{secret}{end}"));
            // A secret of its own comes after the section's other keys.
            let own = format!("{key}_file = {:?}", file.path());
            let config = load(&[beside, &format!("[{section}]\n{own}")], []).unwrap();
            assert_eq!(read(&config).unwrap().expose_secret(), secret, "{section}.{key} {begin:?} {end:?}");
            assert!(!format!("{config:?}").contains("s3cr3t"), "{section}.{key}");
        }
        // As a shell or a Kubernetes secret leaves it.
        let variable = format!("RESETD__{}__{key}", section.replace('.', "__")).to_uppercase();
        for end in ["\n", "\r\n"] {
            let config = load(&[beside], [(variable.as_str(), format!("{secret}{end}").as_str())]).unwrap();
            assert_eq!(read(&config).unwrap().expose_secret(), secret, "{variable} {end:?}");
        }
        // What an unset variable of a compose file leaves behind.
        let given = format!("[{section}]\n{key} = {secret:?}\n{key}_file = \"\"");
        let config = load(&[beside, &given], []).unwrap();
        assert_eq!(read(&config).unwrap().expose_secret(), secret, "{section}.{key} beside an empty {key}_file");
        let nowhere = format!("[{section}]\n{key}_file = \"/nonexistent\"");
        let config = load(&[beside, &nowhere], []);
        let refused = config.and_then(|config| match section {
            "orgs.main" => config.org("main").map(drop),
            _ => config.delivery().map(drop),
        });
        let said = refused.unwrap_err().to_string();
        assert!(said.contains(&format!("{section}.{key}_file")) && said.contains("/nonexistent"), "{said}");
    }
    // Those are all: of each secret that can be written there is a file. A mailer's URL alone is hidden for what somebody may
    // have put into it.
    let raw = include_str!("raw.rs");
    let names: Vec<&str> = raw
        .lines()
        .filter(|line| line.contains("SecretString"))
        .filter_map(|line| line.trim().strip_prefix("pub(super) ")?.split(':').next())
        .collect();
    let with_file = names.iter().filter(|name| raw.contains(&format!("{name}_file: Option<String>"))).count();
    assert_eq!((names.len(), with_file), (secrets.len() + 1, names.len()), "{names:?}");
}

#[test]
fn a_broker_url_that_ends_in_a_slash_means_the_vhost_of_that_name() {
    for (path, vhost) in [("", "/"), ("/", "/"), ("/%2f", "/"), ("/%2F", "/"), ("/?heartbeat=5", "/"), ("/a", "a")] {
        let amqp = load(&[&format!("[amqp]\nurl = \"amqp://u:s3cr3t@broker:5672{path}\"")], []).unwrap().amqp;
        assert_eq!(amqp.uri().unwrap().vhost, vhost, "{path:?}");
    }
}

#[test]
fn a_variable_has_no_line_break_at_its_end_and_a_file_no_byte_order_mark() {
    let text = "[orgs.main]\nregion = \"mypurecloud.de\"";
    let wire = "[wire]\npassword = \"sha256\"\nextensions = \"urn\"";
    let variables =
        [("GENESYS_CLIENT_ID", "id\n"), ("GENESYS_CLIENT_SECRET", "s3cr3t\r\n"), ("RESETD__AMQP__PREFIX", "p\n")];
    let config = load(&[&format!("\u{feff}{text}"), wire], variables).unwrap();
    let org = config.org("main").unwrap();
    assert_eq!((org.client_id.as_str(), org.client_secret.expose_secret()), ("id", "s3cr3t"));
    assert_eq!(config.amqp.prefix, "p");
}

#[test]
fn a_broker_is_where_its_url_says_also_by_an_ipv6_address() {
    for (host, port, place) in [
        ("[fd00::10]", "", "[fd00::10]:5672"),
        ("[::1]", ":5673", "[::1]:5673"),
        ("10.0.0.1", "", "10.0.0.1:5672"),
        ("broker.example.com", ":1", "broker.example.com:1"),
    ] {
        let amqp = load(&[&format!("[amqp]\nurl = \"amqp://u:s3cr3t@{host}{port}/%2f\"")], []).unwrap().amqp;
        let uri = amqp.uri().unwrap();
        assert_eq!(amqp::place(&uri), place);
        assert_eq!(
            uri.authority.host,
            host.trim_matches(['[', ']']),
            "as it is looked up, and stands in a certificate"
        );
    }
}

/// The places of all addresses.
fn places(amqp: &amqp::Amqp) -> Vec<String> {
    amqp.uris().iter().map(amqp::place).collect()
}

#[test]
fn more_addresses_have_the_user_the_vhost_and_the_port_of_the_url_s_scheme() {
    let hosts = "hosts = [\"b\", \"c:5673\", \"[fd00::2]\", \"[::1]:1\", \"A:5673\", \"b:5672\"]";
    let amqp = load(&[&format!("[amqp]\nurl = \"amqp://u:s3cr3t@a:5673/v?heartbeat=5\"\n{hosts}")], []).unwrap().amqp;
    assert_eq!(places(&amqp), ["a:5673", "b:5672", "c:5673", "[fd00::2]:5672", "[::1]:1"], "each once");
    for uri in amqp.uris() {
        let user = uri.authority.userinfo;
        assert_eq!((user.username.as_str(), user.password.as_str()), ("u", "s3cr3t"));
        assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), ("v", Some(5)));
    }
    let tls = "[amqp]\nurl = \"amqps://a\"";
    let amqp = load(&[tls], [("RESETD__AMQP__HOSTS", "b, c:1\n")]).unwrap().amqp;
    assert_eq!(places(&amqp), ["a:5671", "b:5671", "c:1"]);
    assert_eq!(places(&load(&[tls], [("RESETD__AMQP__HOSTS", "")]).unwrap().amqp), ["a:5671"]);
}

/// A certificate and its private key, which are nobody's.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBbjCCARWgAwIBAgIUDumAl8LDqtVQ8oyxuULJSMn3PKYwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBdDAgFw0yNjExMjQxNjE1MDVaGA8yMTI2MTAzMTE2MTUwNVow
DDEKMAgGA1UEAwwBdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGWta29h3vvk
ABpHOv8Tps9BsYGQsRIMzAOgVOguP+Pn4X2nkMpWo0vAKuUZT6nrc7Oz/xNXY9rB
IWl303BtHLujUzBRMB0GA1UdDgQWBBQ0Q3r8SNUY5SYyiJUJHrDnEspVLzAfBgNV
HSMEGDAWgBQ0Q3r8SNUY5SYyiJUJHrDnEspVLzAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0cAMEQCIA+abrEI2cMARwFGLgGY/EdOjmrvOx6+d3psW4/ZkeWV
AiB1+m79xtyqCX2FoHuH+OSxCeTyPR3NhnhI5GVHpWZbkw==
-----END CERTIFICATE-----\n";
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgZpqHOIb/ZwMSzw8u
MvbqdwtH9dbAaHx60YqnjYYHjzWhRANCAARlrWtvYd775AAaRzr/E6bPQbGBkLES
DMwDoFToLj/j5+F9p5DKVqNLwCrlGU+p63Ozs/8TV2PawSFpd9NwbRy7
-----END PRIVATE KEY-----\n";
/// Of no certificate.
const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAjhH9fQF3wboZtlcj248MgRlOQkCRFlSoSsQQsCi0oW
-----END PRIVATE KEY-----\n";

#[test]
fn certificates_go_with_amqps_and_each_is_what_it_should_be() {
    let (certificate, key) = (file(CERTIFICATE), file(PRIVATE_KEY));
    let (cert, key) = (certificate.path(), key.path());
    let tls = |keys: String| format!("[amqp]\nurl = \"amqps://u:s3cr3t@broker\"\n{keys}");
    let all = format!("ca_file = {cert:?}\nclient_cert_file = {cert:?}\nclient_key_file = {key:?}");
    let config = load(&[&tls(all.clone())], []).unwrap();
    assert!(config.amqp.tls.ca.is_some() && config.amqp.tls.client.is_some());
    assert!(!format!("{config:?}").contains("s3cr3t"));
    refused(&format!("[amqp]\n{all}"), [], &["amqp.ca_file is set", "amqps://"]);
    refused(&tls(format!("ca_file = {key:?}")), [], &["amqp.ca_file", "holds no certificate"]);
    refused(&tls(format!("client_cert_file = {cert:?}")), [], &["amqp.client_key_file is not set"]);
    refused(&tls(format!("client_key_file = {key:?}")), [], &["amqp.client_cert_file is not set"]);
    let swapped = format!("client_cert_file = {cert:?}\nclient_key_file = {cert:?}");
    refused(&tls(swapped), [], &["amqp.client_key_file", "holds no private key"]);
    refused(&tls("ca_file = \"/nonexistent\"".into()), [], &["amqp.ca_file", "/nonexistent"]);
    // Framed as it should be, and of no use.
    let no_certificate = file("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    let no_key = file("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n");
    let (no_cert, no_key, other) = (no_certificate.path(), no_key.path(), file(OTHER_KEY));
    refused(&tls(format!("ca_file = {no_cert:?}")), [], &["amqp.ca_file", "cannot be read"]);
    let ours = |cert: &std::path::Path, key| tls(format!("client_cert_file = {cert:?}\nclient_key_file = {key:?}"));
    refused(&ours(no_cert, key), [], &["amqp.client_cert_file is", "cannot be read"]);
    refused(&ours(cert, no_key), [], &["amqp.client_key_file is", "cannot be used"]);
    refused(
        &ours(cert, other.path()),
        [],
        &["amqp.client_key_file is", "another certificate", "amqp.client_cert_file"],
    );
    assert!(load(&[&tls("ca_file = \"\"".into())], []).unwrap().amqp.tls.ca.is_none());
}

#[test]
fn each_bad_value_is_named_with_its_key_and_what_it_wants() {
    refused("[amqp]\nprefetsch = 1", [], &["prefetsch", "unknown field"]);
    refused("[orgs.main]\nregoin = \"x\"", [], &["regoin", "unknown field"]);
    refused("", [("RESETD__AMQP__NOPE", "1")], &["nope", "unknown field"]);
    refused("[nope]\na = 1", [], &["nope"]);
    refused("[amqp]\nprefetch = 0", [], &["amqp.prefetch is 0", "1 to 65535"]);
    refused("[amqp]\nprefetch = \"many\"", [], &["amqp.prefetch", "many"]);
    refused("[amqp]\nprefix = \"a b\"", [], &["amqp.prefix is \"a b\""]);
    refused("[amqp]\nurl = \"http://user:s3cr3t@x\"", [], &["amqp.url", "amqp://"]);
    let hosts = "amqp.hosts is ";
    for (bad, shown) in [
        ("::1", "\"::1\""),
        ("[::1", "\"[::1\""),
        ("[::1]5672", "\"[::1]5672\""),
        ("[rabbit]:5672", "\"[rabbit]:5672\""),
        ("rabbit:", "\"rabbit:\""),
        ("rabbit:0", "\"rabbit:0\""),
        ("rabbit:65536", "\"rabbit:65536\""),
        ("rabbit:amqp", "\"rabbit:amqp\""),
        ("amqp://rabbit", "\"amqp://rabbit\""),
        ("a b", "\"a b\""),
        ("", "\"\""),
        ("u:s3cr3t@rabbit", "one with a user or password in it"),
    ] {
        refused(&format!("[amqp]\nhosts = [\"fine\", {bad:?}]"), [], &[hosts, shown, "host or host:port"]);
    }
    for bad in ["rabbit:15672", "amqp://u:s3cr3t@rabbit", "http://:s3cr3t@rabbit", "http://rabbit/?a=s3cr3t"] {
        refused(&format!("[amqp]\nmanagement_url = {bad:?}"), [], &["amqp.management_url is", "http://host:15672"]);
    }
    refused("[amqp]\nhosts = 5", [], &["amqp.hosts", "a list of texts"]);
    refused("[orgs.Main]\nregion = \"x\"", [], &["\"Main\"", "[a-z]"]);
    refused("[orgs.parked]\nregion = \"x\"", [], &["\"parked\""]);
    refused("[orgs.a__b]\nregion = \"x\"", [], &["a__b"]);
    refused("[orgs.main]\nregion = \"x/y\"", [], &["orgs.main.region is \"x/y\""]);
    refused("[orgs.main]\nscim_url = \"ftp://x\"", [], &["orgs.main.scim_url", "https://"]);
    refused("[orgs.main]\nrate_per_minute = 0", [], &["orgs.main.rate_per_minute is 0"]);
    refused("[orgs.main]\nrate_per_minute = -1", [], &["rate_per_minute"]);
    refused("[orgs.main]\nrequest_timeout = \"61s\"", [], &["orgs.main.request_timeout is 1m 1s", "at most 60s"]);
    refused("[orgs.main]\nburst = 300", [], &["orgs.main.burst is 300", "less than rate_per_minute, 300"]);
    refused("[orgs.main]\nrequest_timeout = \"10\"", [], &["orgs.main.request_timeout", "\"10\"", "10s"]);
    refused("[orgs.main]\nrequest_timeout = \"16s\"", [], &["shutdown.grace", "orgs.main.request_timeout"]);
    refused("[wire]\npassword = \"md5\"", [], &["wire.password is \"md5\""]);
    refused("[wire]\nextensions = \"none\"", [], &["wire.extensions is \"none\""]);
    refused("[password]\nkind = \"words\"", [], &["password.kind is \"words\""]);
    refused("[password]\nkind = \"policy\"\nlength = 4", [], &["password.length is 4", "12 to 128"]);
    refused("[retry]\nmax_attempts = 0", [], &["retry.max_attempts is 0"]);
    refused("[retry]\nbase = \"0s\"", [], &["retry.base", "above zero"]);
    refused("[retry]\nbase = \"2m\"", [], &["retry.max", "retry.base"]);
    refused("[notification]\nbody = \"no place\"", [], &["notification.body", "{password}"]);
    refused("[notification]\nfallback_address = \"nobody\"", [], &["notification.fallback_address"]);
    refused("[notification]\nttl = \"100days\"", [], &["notification.ttl"]);
    refused("[http]\nlisten = \"9464\"", [], &["http.listen is \"9464\""]);
}

/// 128 bits, as `openssl rand -hex 16` makes them.
const TOKEN: &str = "5e0b7f3a9f2c41d07be85a3366e1f094";

#[test]
fn hosts_under_which_the_page_may_be_asked_for_have_no_port() {
    let text = "[http]\nallowed_hosts = [\"Resetd.Example.com\", \"192.0.2.7\", \"[2001:db8::7]\", \"2001:db8::8\", \"name.\"]";
    let hosts = load(&[text], []).unwrap().http.allowed_hosts;
    assert_eq!(hosts, ["resetd.example.com", "192.0.2.7", "2001:db8::7", "2001:db8::8", "name"]);
    let listed = load(&[], [("RESETD__HTTP__ALLOWED_HOSTS", "a.example, b.example")]).unwrap();
    assert_eq!(listed.http.allowed_hosts, ["a.example", "b.example"]);
    for wrong in ["https://resetd.example.com", "resetd.example.com:443", "", "*.example.com", "a b"] {
        let text = format!("[http]\nallowed_hosts = [{wrong:?}]");
        refused(&text, [], &["http.allowed_hosts", "without scheme and port"]);
    }
}

#[test]
fn the_page_is_shown_beyond_this_machine_only_to_those_who_know_its_token() {
    for listen in ["127.0.0.1:9464", "127.9.9.9:1", "[::1]:9464", "[::ffff:127.0.0.1]:9464"] {
        assert!(worker(&format!("[http]\nlisten = {listen:?}"), []).is_ok(), "{listen}");
    }
    for listen in ["0.0.0.0:9464", "[::]:9464", "192.0.2.7:9464"] {
        let text = format!("[http]\nlisten = {listen:?}");
        refused(&text, [], &["http.token is not set", "http.token_file", "128 bits", "openssl rand -hex 32", listen]);
        refused(&text, [("RESETD__HTTP__TOKEN", "")], &["http.token is not set"]);
        assert!(worker(&text, [("RESETD__HTTP__TOKEN", TOKEN)]).is_ok(), "{listen}");
        assert!(load(&[&text], []).is_ok(), "who serves nothing needs none");
    }
    let token = file(&format!("{TOKEN}\n"));
    let text = format!("[http]\ntoken_file = {:?}", token.path());
    let config = load(&[&text], []).unwrap();
    assert_eq!(config.http.token.as_ref().unwrap().expose_secret(), TOKEN);
    assert!(!format!("{config:?}").contains(TOKEN));
    refused(&text, [("RESETD__HTTP__TOKEN", TOKEN)], &["http.token", "http.token_file", "both set"]);
    refused("[http]\ntoken_file = \"/nonexistent\"", [], &["http.token_file", "/nonexistent"]);
    for token in ["s3cr3t with blanks in it", "s3cr3t-päge-token-1"] {
        refused("", [("RESETD__HTTP__TOKEN", token)], &["http.token", "no header can carry", "at least 128 bits"]);
    }
    for token in ["s3cr3t-too-few", "s3cr3t-page-token-1", "s3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3cr3t"] {
        let wants = ["http.token is guessable: about ", "at least 128 bits", "openssl rand -hex 32"];
        refused("", [("RESETD__HTTP__TOKEN", token)], &wants);
    }
}

#[test]
fn a_file_that_is_no_toml_is_named_by_line_without_its_text() {
    refused("[orgs.main]\nclient_secret = \"s3cr3t", [], &["it is not TOML", "line 2"]);
    let error = Config::load(&["/nonexistent.toml".into()], Environment::default()).unwrap_err().to_string();
    assert!(error.contains("/nonexistent.toml"), "{error}");
}

#[test]
fn one_call_a_minute_may_be_the_whole_limit() {
    assert!(worker("[orgs.main]\nrate_per_minute = 1", []).is_ok());
    refused("[orgs.main]\nrate_per_minute = 2\nburst = 2", [], &["orgs.main.burst"]);
}

#[test]
fn a_mailers_waits_are_what_can_be_waited() {
    let said = |own: &str, other: &str| {
        let text = format!("{other}[mailer]\n{own}[mailer.http]\nurl = \"https://mail/\"\n");
        load(&[&text], []).and_then(|config| config.mailer().map(drop)).map_err(|error| error.to_string())
    };
    let refused = |own: &str, other: &str, key: &str| {
        let error = said(own, other).unwrap_err();
        assert!(error.contains(key), "{error}");
    };
    said("timeout = \"60s\"\n", "[notification]\nttl = \"1192h\"\n").unwrap();
    refused("timeout = \"61s\"\n", "", "mailer.timeout");
    refused("retry_max = \"400ms\"\n", "[retry]\nbase = \"500ms\"\n", "mailer.retry_max");
    refused("", "[notification]\nttl = \"1193h\"\n", "notification.ttl");
    refused("", "[http]\nlisten = \"0.0.0.0:9464\"\n", "http.token");
    let open = load(&["[http]\nlisten = \"0.0.0.0:9464\"\n[mailer.http]\nurl = \"https://mail/\"\n"], []).unwrap();
    assert!(open.delivery().is_ok(), "a sample is shown to who asked for it alone");
}

const BY_SMTP: &str =
    "[mailer]\nfrom = \"Service desk <noreply@example.com>\"\n[mailer.smtp]\nhost = \"smtp.example.com\"\n";

fn mailer<const N: usize>(text: &str, variables: [(&str, &str); N]) -> Result<mailer::Mailer, ConfigError> {
    load(&[text], variables)?.delivery()
}

fn smtp(more: &str) -> mailer::Smtp {
    let mailer::Via::Smtp(server) = mailer(&format!("{BY_SMTP}{more}"), []).unwrap().via else { panic!("by SMTP") };
    server
}

#[test]
fn mails_go_by_smtp_with_tls_unless_it_is_switched_off_by_name() {
    let server = smtp("");
    assert_eq!((server.port, server.tls, server.pool), (587, mailer::Tls::Required, 8));
    assert_eq!(
        (server.hello_name.as_str(), server.from.to_string().as_str()),
        ("example.com", "Service desk <noreply@example.com>")
    );
    assert!(server.login.is_none());
    assert_eq!((smtp("tls = \"wrapper\"").port, smtp("tls = \"off\"").port), (465, 25));
    let login = smtp("user = \"u\"\npassword = \"007\"").login.unwrap();
    assert_eq!((login.user.as_str(), login.password.expose_secret()), ("u", "007"));
}

#[test]
fn mails_go_one_way_and_the_environment_may_name_it() {
    let service = [("EMAIL_SERVICE_URL", "https://mail.example.com/send?key=s3cr3t")];
    let mailer::Via::Http(http) = mailer("", service).unwrap().via else { panic!("over HTTP") };
    assert_eq!((http.url.path(), http.token.is_none()), ("/send", true));
    let url = file("https://mail.example.com/file?key=s3cr3t\n");
    let by_file = format!("[mailer.http]\nurl_file = {:?}", url.path());
    let mailer::Via::Http(http) = mailer(&by_file, service).unwrap().via else { panic!("over HTTP") };
    assert_eq!(http.url.path(), "/file");
    let own = "[mailer.http]\nurl = \"http://127.0.0.1:9/\"\ntoken = \"t\"";
    let mailer::Via::Http(http) = mailer(own, service).unwrap().via else { panic!("over HTTP") };
    assert_eq!((http.url.port(), http.token.is_some()), (Some(9), true));
    let both = mailer(BY_SMTP, service).unwrap_err().to_string();
    assert!(
        both.contains("mailer.smtp.host") && both.contains("EMAIL_SERVICE_URL") && !both.contains("s3cr3t"),
        "{both}"
    );
    let neither = mailer("", []).unwrap_err().to_string();
    assert!(neither.contains("mailer.smtp.host") && neither.contains("mailer.http.url"), "{neither}");
    assert!(load(&[], []).is_ok(), "only a mailer needs a way");
}

#[test]
fn a_mailer_that_could_not_deliver_is_refused_in_words_without_secrets() {
    for (text, part) in [
        ("[mailer.smtp]\nhost = \"smtp.example.com\"".to_owned(), "mailer.from is not set"),
        (BY_SMTP.replace("noreply@", ""), "mailer.from"),
        (BY_SMTP.replace("noreply@", "nö@"), "mailer.from"),
        (BY_SMTP.replace("smtp.example.com", "smtp.example.com:25"), "mailer.smtp.host"),
        (format!("{BY_SMTP}tls = \"on\""), "\"off\""),
        (format!("{BY_SMTP}pool = 0"), "mailer.smtp.pool"),
        (format!("{BY_SMTP}port = 0"), "mailer.smtp.port"),
        (format!("{BY_SMTP}user = \"u\""), "mailer.smtp.password"),
        (format!("{BY_SMTP}password = \"s3cr3t\""), "mailer.smtp.user"),
        (format!("{BY_SMTP}user = \"u\"\npassword = \"s3cr3t\"\npassword_file = \"x\""), "password_file"),
        (format!("{BY_SMTP}hello_name = \"a b\""), "mailer.smtp.hello_name"),
        (format!("{BY_SMTP}color = 1"), "color"),
        ("[mailer]\nrate_per_minute = 0".to_owned(), "mailer.rate_per_minute"),
        ("[mailer]\nmax_attempts = 0".to_owned(), "mailer.max_attempts"),
        ("[mailer]\nlanguage = \"english!\"".to_owned(), "mailer.language"),
        ("[mailer.http]\nurl = \"ftp://s3cr3t/\"".to_owned(), "mailer.http.url"),
        ("[mailer.http]\nurl = \"https://u:s3cr3t@mail/\"".to_owned(), "mailer.http.url"),
        ("[mailer.http]\nurl = \"https://mail/\"\ntoken = \"s3cr3t x\"".to_owned(), "mailer.http.token"),
    ] {
        let error = mailer(&text, []).expect_err(&text).to_string();
        assert!(error.contains(part) && !error.contains("s3cr3t"), "{part:?} is not in: {error}");
    }
}

#[test]
fn a_limit_to_the_resets_of_an_hour_is_the_bulk_lanes_or_of_each_lane() {
    let limits = |text: &str, variable: Option<(&str, &str)>| {
        let text = format!("[orgs.main]\n{text}");
        let worker = match variable {
            None => worker(&text, []),
            Some((name, value)) => worker(&text, [(format!("RESETD__ORGS__MAIN__{name}").as_str(), value)]),
        };
        let of =
            |limits: [Option<NonZeroU32>; Lane::COUNT], lane: Lane| limits[lane.index()].map_or(0, NonZeroU32::get);
        let both = |limits| [Lane::Interactive, Lane::Bulk].map(|lane| of(limits, lane));
        worker.map(|worker| both(worker.orgs["main"].guard_per_hour))
    };
    for (text, variable, wanted) in [
        ("", None, [0, 0]),
        ("guard_per_hour = 1000", None, [0, 1000]),
        ("guard_per_hour = { interactive = 200 }", None, [200, 0]),
        ("guard_per_hour = { interactive = 200, bulk = 1000 }", None, [200, 1000]),
        ("guard_per_hour = {}", None, [0, 0]),
        ("", Some(("GUARD_PER_HOUR", "1000")), [0, 1000]),
        ("", Some(("GUARD_PER_HOUR__INTERACTIVE", "200")), [200, 0]),
        ("guard_per_hour = { bulk = 1000 }", Some(("GUARD_PER_HOUR__INTERACTIVE", "200")), [200, 1000]),
    ] {
        assert_eq!(limits(text, variable), Ok(wanted), "{text} {variable:?}");
    }
    let each = Lane::NAMES.map(|lane| format!("{lane} = a number"));
    let either = format!("a number, or {{ {} }}", each.join(", "));
    for (text, parts) in [
        ("guard_per_hour = 0", ["orgs.main.guard_per_hour is 0", "at least 1"]),
        ("guard_per_hour = { interactive = 0 }", ["orgs.main.guard_per_hour.interactive is 0", "at least 1"]),
        ("guard_per_hour = { other = 1 }", ["guard_per_hour", "other"]),
        ("guard_per_hour = -1", ["guard_per_hour", &either]),
        ("guard_per_hour = \"many\"", ["guard_per_hour", &either]),
    ] {
        refused(&format!("[orgs.main]\n{text}"), [], &parts);
    }
}

#[test]
fn domains_are_domains_and_the_fallback_address_is_at_one_of_them() {
    let domains =
        |domains: &str, more: &str| load(&[&format!("[notification]\nallowed_domains = {domains}\n{more}")], []);
    assert!(domains("[\"example.com\", \"*.example.org\"]", "fallback_address = \"desk@eu.example.org\"").is_ok());
    assert!(load(&[], [("RESETD__NOTIFICATION__ALLOWED_DOMAINS", "example.com, *.example.org")]).is_ok());
    for (list, more, parts) in [
        ("[\"@example.com\"]", "", ["notification.allowed_domains is \"@example.com\"", "*.example.com"]),
        ("[\"\"]", "", ["notification.allowed_domains is \"\"", "example.com"]),
        (
            "[\"example.com\"]",
            "fallback_address = \"desk@example.org\"",
            ["notification.fallback_address", "notification.allowed_domains"],
        ),
    ] {
        let error = domains(list, more).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn a_mailer_that_wants_notifications_sealed_needs_a_key() {
    let said = |own: &str| {
        let text = format!("[mailer]\nrequire_sealed = true\n{own}[mailer.http]\nurl = \"https://mail/\"\n");
        load(&[&text], []).unwrap().mailer().map(|mailer| mailer.settings.require_sealed)
    };
    assert_eq!(said("open_with = [\"/etc/resetd/mail.key.pem\"]\n"), Ok(true));
    let error = said("").unwrap_err().to_string();
    assert!(error.contains("mailer.require_sealed") && error.contains("mailer.open_with"), "{error}");
}

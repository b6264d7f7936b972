//! What is sealed opens with its key and with no other, and every other text is refused in words that name the kid.

use std::path::Path;
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};

use super::*;
use crate::transport::keys::{Bits, Pair};

const SECRET: &[u8] = br#"{"temporaryPassword":"s3cr3t-pw","body":"It is s3cr3t-pw"}"#;

/// Two pairs in files of a folder that lives as long as the tests, made once: `a` and `b`.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            let pair = Pair::generate(Bits::Rsa3072).unwrap();
            std::fs::write(folder.path().join(format!("{name}.pub.pem")), &pair.public).unwrap();
            std::fs::write(folder.path().join(format!("{name}.key.pem")), pair.private.as_str()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.kid")), &pair.kid).unwrap();
        }
        folder
    });
    folder.path()
}

fn files(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| folder().join(name)).collect()
}

fn seal(names: &[&str]) -> Seal {
    Seal::load(&files(names)).unwrap().unwrap()
}

fn keys(names: &[&str]) -> Keys {
    Keys::load(&files(names)).unwrap()
}

fn kid(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{name}.kid"))).unwrap()
}

fn written(name: &str, content: &str) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn what_is_sealed_opens_with_its_key_and_never_looks_the_same_twice() {
    let (seal, keys) = (seal(&["a.pub.pem"]), keys(&["b.key.pem", "a.key.pem"]));
    let (one, two) = (seal.close(SECRET).unwrap(), seal.close(SECRET).unwrap());
    assert_eq!(one.split('.').count(), 5);
    for (one, two) in one.split('.').zip(two.split('.')).skip(1) {
        assert_ne!(one, two);
    }
    assert_eq!(keys.open(&one).unwrap().as_slice(), SECRET);
    assert_eq!(keys.open(&seal.close(b"").unwrap()).unwrap().as_slice(), b"");
    let header: serde_json::Value =
        serde_json::from_slice(&BASE64URL.decode(one.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(header, serde_json::json!({"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": kid("a")}));
}

#[test]
fn the_first_key_seals_and_the_others_wait_their_turn() {
    let seal = seal(&["b.pub.pem", "a.pub.pem"]);
    assert_eq!((seal.kid(), seal.others()), (kid("b").as_str(), [kid("a")].as_slice()));
    let sealed = seal.close(SECRET).unwrap();
    assert!(keys(&["b.key.pem"]).open(&sealed).is_ok());
    assert!(Seal::load(&[]).unwrap().is_none());
    assert!(!format!("{seal:?}").contains("PUBLIC"));
}

#[test]
fn the_example_of_rfc_7638_has_the_thumbprint_that_it_says() {
    let pem = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA0vx7agoebGcQSuuPiLJX
ZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tS
oc/BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ/2W+5JsGY4Hc5n9yBXArwl93lqt
7/RN5w6Cf0h4QyQ5v+65YGjQR0/FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0
zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt+bFTWhAI4vMQFh6WeZu0f
M4lFd2NcRwr3XPksINHaQ+G/xBniIqbw0Ls1jF44+csFCur+kEgU8awapJzKnqDK
gwIDAQAB
-----END PUBLIC KEY-----
";
    let path = written("rfc7638.pem", pem);
    assert_eq!(Seal::load(&[path]).unwrap().unwrap().kid(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

#[test]
fn what_was_sealed_to_an_unknown_key_is_named_by_it() {
    let sealed = seal(&["a.pub.pem"]).close(SECRET).unwrap();
    let error = keys(&["b.key.pem"]).open(&sealed).unwrap_err();
    assert_eq!(error, CannotOpen::UnknownKey { kid: kid("a"), known: kid("b") });
    assert_eq!(keys(&["b.key.pem"]).find(&sealed).unwrap_err(), error, "it is known before it is opened");
    assert_eq!(keys(&["b.key.pem", "a.key.pem"]).find(&sealed), Ok(()));
    assert_eq!(
        Keys::load(&[]).unwrap().open(&sealed).unwrap_err(),
        CannotOpen::UnknownKey { kid: kid("a"), known: "no key".into() }
    );
}

#[test]
fn a_change_to_any_part_is_seen() {
    let (seal, keys) = (seal(&["a.pub.pem"]), keys(&["a.key.pem"]));
    let sealed = seal.close(SECRET).unwrap();
    let parts: Vec<Vec<u8>> = sealed.split('.').map(|part| BASE64URL.decode(part).unwrap()).collect();
    let whole = |parts: &[Vec<u8>]| parts.iter().map(|part| BASE64URL.encode(part)).collect::<Vec<_>>().join(".");
    assert!(keys.open(&whole(&parts)).is_ok());
    for part in 1..parts.len() {
        for at in [0, parts[part].len() - 1] {
            let mut changed = parts.clone();
            changed[part][at] ^= 1;
            assert_eq!(keys.open(&whole(&changed)).unwrap_err(), CannotOpen::Damaged { kid: kid("a") }, "{part} {at}");
        }
        let mut cut = parts.clone();
        cut[part].pop();
        assert_eq!(keys.open(&whole(&cut)).unwrap_err(), CannotOpen::Damaged { kid: kid("a") }, "{part}");
        cut[part].clear();
        assert_eq!(keys.open(&whole(&cut)).unwrap_err(), CannotOpen::Damaged { kid: kid("a") }, "{part}");
    }
    // The header is under the tag: one more blank, and it is another.
    let mut changed = parts.clone();
    changed[0].insert(1, b' ');
    assert_eq!(keys.open(&whole(&changed)).unwrap_err(), CannotOpen::Damaged { kid: kid("a") });
}

#[test]
fn a_text_that_is_not_sealed_or_sealed_otherwise_is_refused_by_what_it_says() {
    let keys = keys(&["a.key.pem"]);
    let sealed = seal(&["a.pub.pem"]).close(SECRET).unwrap();
    for text in ["", "s3cr3t-pw", "a.b.c.d.e", "....", &sealed[1..], &format!("{sealed}.")] {
        assert_eq!(keys.open(text).unwrap_err(), CannotOpen::NotSealed, "{text}");
    }
    let rest = &sealed[sealed.find('.').unwrap()..];
    let with = |header: &str| keys.open(&format!("{}{rest}", BASE64URL.encode(header))).unwrap_err();
    assert_eq!(with(r#"{"alg":"RSA-OAEP-256","enc":"A256GCM"}"#), CannotOpen::NotSealed);
    for (header, alg, enc) in [
        (r#"{"alg":"RSA1_5","enc":"A256GCM","kid":"k"}"#, "RSA1_5", "A256GCM"),
        (r#"{"alg":"dir","enc":"A256GCM","kid":"k"}"#, "dir", "A256GCM"),
        (r#"{"alg":"RSA-OAEP-256","enc":"A128CBC-HS256","kid":"k"}"#, "RSA-OAEP-256", "A128CBC-HS256"),
        (r#"{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"k","zip":"DEF"}"#, "RSA-OAEP-256", "A256GCM"),
        (r#"{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"k","crit":["exp"],"exp":1}"#, "RSA-OAEP-256", "A256GCM"),
    ] {
        assert_eq!(with(header), CannotOpen::Foreign { kid: "k".into(), alg: alg.into(), enc: enc.into() }, "{header}");
    }
    let long = with(&format!(r#"{{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"{}\u001b"}}"#, "k".repeat(500)));
    assert!(long.to_string().len() < 250 && !long.to_string().contains('\u{1b}'), "{long}");
}

/// The file is refused in words that hold all these parts.
fn refused(error: ConfigError, key: &str, path: &Path, parts: &[&str]) {
    let said = error.to_string();
    for part in [key, path.file_name().unwrap().to_str().unwrap(), "it must be a PEM file"].iter().chain(parts) {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[test]
fn a_file_that_does_not_do_is_named_with_what_is_wanted() {
    let small = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDBhTVJ5W161iLCFJUS8N8dbGD+
gkbNi3lIB2yZVTXSMXiBo/mVn0eNg4As+nAruzAjjo9Izo8zqtXzPoBMk9LGLr0B
Wi3GoCRA5RCVk7+EI+UDUrMuam61pijZ1U1kbt5la7NL8YH0Y3UYEuz3hy/zufPu
iHExnu5hjZokVP6fuQIDAQAB
-----END PUBLIC KEY-----
";
    let elliptic = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYeL4+RnpVdlOY4iuV8smCjKQmB5A
m9nXgYa6pVOUst5t2KoP/o5VpJXcGXf698KpWGt6zsu8xlMZN7aT90tqZQ==
-----END PUBLIC KEY-----
";
    let public = |path: &Path, parts: &[&str]| {
        refused(Seal::load(&[path.to_owned()]).unwrap_err(), "notification.seal_to", path, parts);
    };
    public(&written("small.pem", small), &["fewer than 2048 bits"]);
    public(&written("elliptic.pem", elliptic), &["no RSA key"]);
    public(&written("empty.pem", ""), &["has not one public key in it"]);
    public(&written("text.pem", "s3cr3t"), &["has not one public key in it"]);
    public(&written("broken.pem", "-----BEGIN PUBLIC KEY-----\n%%%\n-----END PUBLIC KEY-----\n"), &["is not PEM"]);
    public(&folder().join("nowhere.pem"), &["cannot be read", "No such file"]);
    public(&folder().join("a.key.pem"), &["holds a private key", "must not have it", "-pubout"]);
    let both = ["a.pub.pem", "b.pub.pem"].map(|name| std::fs::read_to_string(folder().join(name)).unwrap());
    public(&written("two.pem", &both.concat()), &["something else than one public key"]);
    let private = |path: &Path, parts: &[&str]| {
        refused(Keys::load(&[path.to_owned()]).unwrap_err(), "mailer.open_with", path, parts);
    };
    private(&folder().join("a.pub.pem"), &["holds a public key", "notification.seal_to"]);
    private(&folder().join("nowhere.pem"), &["cannot be read"]);
    private(&written("text.key.pem", "s3cr3t"), &["has not one private key"]);
}

/// A key of 2048 bits, which somebody else made, does too.
#[test]
fn a_key_of_2048_bits_is_taken() {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let private: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let pem = |label: &str, der: &[u8]| {
        let base64 = base64::prelude::BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    };
    let seal = Seal::load(&[written("2048.pub.pem", &pem("PUBLIC KEY", public.as_ref()))]).unwrap().unwrap();
    let keys = Keys::load(&[written("2048.key.pem", &pem("PRIVATE KEY", private.as_ref()))]).unwrap();
    assert_eq!(keys.open(&seal.close(SECRET).unwrap()).unwrap().as_slice(), SECRET);
    assert_eq!(keys.kids().collect::<Vec<_>>(), [seal.kid()]);
}

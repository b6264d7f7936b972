//! Base images and those of docker-compose.yml: each by an exact tag, so that what is built today is built tomorrow. A release records
//! their digests (`scripts/release`).

use super::file;

/// What is built here.
const OWN: &str = "resetd:local";

/// The images that a file names.
fn images(text: &str) -> Vec<&str> {
    let named = text.lines().filter_map(|line| {
        let line = line.trim();
        line.strip_prefix("FROM ").or_else(|| line.strip_prefix("image: "))
    });
    named.filter_map(|rest| rest.split_whitespace().next()).filter(|image| *image != OWN).collect()
}

/// Whether a tag says a version with all of its parts, or a digest stands in its place: neither `latest` nor `12`, which move.
fn is_exact(image: &str) -> bool {
    if image.contains("@sha256:") {
        return true;
    }
    let Some((_, tag)) = image.rsplit_once(':') else { return false };
    let version = tag.split('-').next().unwrap_or_default().trim_start_matches('v');
    let parts: Vec<&str> = version.split('.').collect();
    // Debian's releases have two parts.
    let least = if image.starts_with("debian:") { 2 } else { 3 };
    parts.len() >= least && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

#[test]
fn every_image_is_named_by_an_exact_tag() {
    let mut seen = 0;
    for path in ["deploy/Dockerfile", "docker-compose.yml", ".github/workflows/ci.yml"] {
        for image in images(&file(path)) {
            assert!(is_exact(image), "{path}: {image}");
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen}");
}

#[test]
fn a_tag_that_moves_is_not_exact() {
    for moves in
        ["rabbitmq", "rabbitmq:latest", "rabbitmq:4", "rabbitmq:4.2-management", "debian:12-slim", "rust:bookworm"]
    {
        assert!(!is_exact(moves), "{moves}");
    }
    for stays in ["rabbitmq:4.2.0-management", "debian:12.12-slim", "prom/prometheus:v3.5.0", "x/y@sha256:00"] {
        assert!(is_exact(stays), "{stays}");
    }
}

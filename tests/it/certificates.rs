//! Certificates for one test, made by the openssl that is installed: a CA, and what it issues.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A CA in a folder of its own, which is gone with this value.
pub struct Authority(tempfile::TempDir);

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let subject = format!("/CN=CA {}", uuid::Uuid::new_v4().simple());
        let files = ["-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", &subject];
        openssl(folder.path(), &[&["req", "-x509"][..], &key, &files].concat());
        Self(folder)
    }

    /// The CA's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A file of its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes NAME.pem and NAME.key: a certificate for this host (such as `IP:127.0.0.1`) and so many days.
    pub fn issue(&self, name: &str, host: &str, days: &str) -> (PathBuf, PathBuf) {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        std::fs::write(self.file("extensions"), format!("subjectAltName = {host}\n")).unwrap();
        let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=of a test"];
        openssl(self.0.path(), &[&["req"][..], &of, &["-keyout", &key, "-out", &request]].concat());
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions", "-days", days];
        openssl(self.0.path(), &[&["x509", "-req", "-in", &request, "-out", &certificate][..], &by].concat());
        (self.file(&certificate), self.file(&key))
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let run = Command::new("openssl").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let run = run.expect("openssl is installed (apt-get install openssl)");
    assert!(run.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

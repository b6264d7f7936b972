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
        let [key, request, certificate] = self.request(name, host);
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions", "-days", days];
        openssl(self.0.path(), &[&["x509", "-req", "-in", &request, "-out", &certificate][..], &by].concat());
        (self.file(&certificate), self.file(&key))
    }

    /// The same for some seconds from now on, and from when on it is no good.
    pub fn issue_for_seconds(&self, name: &str, host: &str, seconds: i64) -> (PathBuf, PathBuf, jiff::Timestamp) {
        let [key, request, certificate] = self.request(name, host);
        // `openssl x509` counts in days before 3.4.
        let ca = "[ca]\ndefault_ca = d\n[d]\ndatabase = index\nrand_serial = yes\nnew_certs_dir = .\ndefault_md = sha256\npolicy = p\n\
            certificate = ca.pem\nprivate_key = ca.key\nunique_subject = no\n[p]\ncommonName = supplied\n";
        std::fs::write(self.file("ca.conf"), ca).unwrap();
        std::fs::write(self.file("index"), "").unwrap();
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let until = end.strftime("%Y%m%d%H%M%SZ").to_string();
        let by = ["-config", "ca.conf", "-extfile", "extensions", "-enddate", &until];
        openssl(
            self.0.path(),
            &[&["ca", "-batch", "-notext", "-in", &request, "-out", &certificate][..], &by].concat(),
        );
        // Its last second counts as a whole.
        (self.file(&certificate), self.file(&key), end + jiff::SignedDuration::from_secs(1))
    }

    /// A key and a request to certify it: their names, and that of the certificate.
    fn request(&self, name: &str, host: &str) -> [String; 3] {
        let all = ["key", "csr", "pem"].map(|rest| format!("{name}.{rest}"));
        std::fs::write(self.file("extensions"), format!("subjectAltName = {host}\n")).unwrap();
        let of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=of a test"];
        openssl(self.0.path(), &[&["req"][..], &of, &["-keyout", &all[0], "-out", &all[1]]].concat());
        all
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let run = Command::new("openssl").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let run = run.expect("openssl is installed (apt-get install openssl)");
    assert!(run.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

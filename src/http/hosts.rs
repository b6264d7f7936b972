//! Under which names the page is served. A name that somebody else owns can be made to mean this machine, and a browser then lets their
//! page read what is served here (DNS rebinding): such a request is known by its `Host`.

use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::uri::Authority;

/// The host that a request is for, and its port where it says one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    name: String,
    pub(super) port: Option<u16>,
}

impl Asked {
    /// Whom a request is for: by its target where that is a whole URL, which goes first (RFC 9112, section 3.2.2), else by its `Host`.
    /// `Err`: it says so twice or in a way that is no host. `Ok(None)`: it does not say (HTTP/1.0), which no browser does.
    pub(super) fn of(parts: &Parts) -> Result<Option<Self>, NoHost> {
        let hosts: Vec<_> = parts.headers.get_all(HOST).iter().collect();
        let header = match hosts[..] {
            [] => None,
            [one] => Some(Self::parse(one.to_str().map_err(|_| NoHost)?)?),
            [..] => return Err(NoHost),
        };
        let target = parts.uri.authority().map(|authority| Self::parse(authority.as_str())).transpose()?;
        Ok(target.or(header))
    }

    fn parse(text: &str) -> Result<Self, NoHost> {
        let authority = Authority::try_from(text).map_err(|_| NoHost)?;
        if text.contains('@') {
            return Err(NoHost);
        }
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        Ok(Self { name, port: authority.port_u16() })
    }
}

/// A request that is for no host that could be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoHost;

/// The names that are ours.
pub(super) struct Hosts {
    listen: IpAddr,
    allowed: Vec<String>,
}

impl Hosts {
    /// This machine's own, the address that is listened at, and those of `http.allowed_hosts`.
    pub(super) fn new(listen: IpAddr, allowed: &[String]) -> Self {
        Self { listen: listen.to_canonical(), allowed: allowed.to_vec() }
    }

    /// Whether a request is for one of them.
    pub(super) fn admit(&self, asked: Result<&Option<Asked>, NoHost>) -> bool {
        let Ok(asked) = asked else { return false };
        let Some(Asked { name, .. }) = asked else { return true };
        match name.parse::<IpAddr>() {
            Ok(address) => self.admit_address(address.to_canonical()),
            Err(_) => name == "localhost" || self.allowed.contains(name),
        }
    }

    /// No name can be made to mean an address; but where one is listened at, nobody who means well asks for another.
    fn admit_address(&self, address: IpAddr) -> bool {
        let is_allowed = |host: &String| host.parse().is_ok_and(|host: IpAddr| host.to_canonical() == address);
        address.is_loopback()
            || self.listen.is_unspecified()
            || self.listen == address
            || self.allowed.iter().any(is_allowed)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn asked(target: &str, hosts: &[&str]) -> Result<Option<Asked>, NoHost> {
        let mut request = Request::get(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        Asked::of(&request.body(()).unwrap().into_parts().0)
    }

    fn admits(hosts: &Hosts, target: &str, named: &[&str]) -> bool {
        hosts.admit(asked(target, named).as_ref().map_err(|no_host| *no_host))
    }

    #[test]
    fn this_machine_the_address_that_is_listened_at_and_what_is_configured_are_ours() {
        let allowed = ["resetd.example.com", "192.0.2.7", "2001:db8::7"].map(str::to_owned);
        let hosts = Hosts::new("10.1.2.3".parse().unwrap(), &allowed);
        for host in [
            "127.0.0.1:9464",
            "127.9.9.9",
            "localhost:9464",
            "LocalHost",
            "localhost.",
            "[::1]:9464",
            "[::ffff:127.0.0.1]",
            "10.1.2.3:9464",
            "Resetd.Example.com:443",
            "192.0.2.7",
            "[2001:db8:0::7]:1",
        ] {
            assert!(admits(&hosts, "/", &[host]), "{host}");
        }
        for host in [
            "rebound.example:9464",
            "localhost.rebound.example",
            "127.0.0.1.rebound.example",
            "x.resetd.example.com",
            "10.1.2.4",
            "[2001:db8::8]",
            "",
            "localhost@rebound.example",
            "localhost, rebound.example",
            "localhost/",
            "2130706433",
        ] {
            assert!(!admits(&hosts, "/", &[host]), "{host}");
        }
        assert!(admits(&hosts, "/", &[]), "no browser leaves it out");
        assert!(
            !admits(&hosts, "/", &["localhost", "localhost"])
                && !admits(&hosts, "http://rebound.example/", &["localhost"])
        );
        let everywhere = Hosts::new("0.0.0.0".parse().unwrap(), &[]);
        assert!(admits(&everywhere, "/", &["198.51.100.9:9464"]), "one of the machine's own, or one that leads to it");
        assert!(!admits(&everywhere, "/", &["rebound.example"]));
    }

    #[test]
    fn the_port_is_that_which_the_client_has_asked_at() {
        let port = |host: &str| asked("/", &[host]).unwrap().unwrap().port;
        assert_eq!([port("localhost:9464"), port("[::1]:1"), port("resetd.example.com")], [Some(9464), Some(1), None]);
    }
}

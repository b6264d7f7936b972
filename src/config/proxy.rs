//! How calls to the orgs and to the mail service leave this machine. By a proxy only where the configuration says so: one that the
//! environment names for everything else would see tokens and passwords.

use reqwest::{ClientBuilder, NoProxy, Url};
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, Environment, raw, value};

/// What the environment may name a proxy by; of two that mean the same the first wins, as with curl.
const HTTPS: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
const HTTP: [&str; 2] = ["http_proxy", "HTTP_PROXY"];
const ALL: [&str; 2] = ["all_proxy", "ALL_PROXY"];
/// Whom it excepts.
const EXCEPT: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// What is called without one whatever is configured: this machine, and in IPv6 what maps to it.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1,::ffff:127.0.0.0/104";

/// The choice of `http.proxy`.
#[derive(Debug, Clone)]
pub enum Proxy {
    /// None.
    Direct {
        /// The variables by which the environment names one that is not used.
        unused: Vec<&'static str>,
    },
    /// This one.
    By(SecretString),
    /// Those of the environment.
    Environment {
        /// For `http://`.
        http: Option<SecretString>,
        /// For `https://`.
        https: Option<SecretString>,
        /// Whom it excepts, as the environment writes it.
        except: String,
    },
}

impl Default for Proxy {
    fn default() -> Self {
        Self::Direct { unused: Vec::new() }
    }
}

impl Proxy {
    pub(super) fn check(raw: &raw::Http, environment: &Environment) -> Result<Self, ConfigError> {
        let given = value::secret("http.proxy", raw.proxy.as_ref(), raw.proxy_file.as_deref())?;
        match given {
            None => {
                let all = [HTTPS, HTTP, ALL].into_iter().flatten();
                Ok(Self::Direct { unused: all.filter(|name| environment.get(name).is_some()).collect() })
            }
            Some(word) if word.expose_secret() == "env" => {
                let named = |names: [&str; 2]| {
                    let all = names.into_iter().chain(ALL);
                    let named = all.into_iter().find_map(|name| Some((name, environment.get(name)?)));
                    // Without a scheme it is http, as curl takes it.
                    let whole = |url: &str| if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
                    named.map(|(name, url)| checked(&format!("{name}, which http.proxy = \"env\" uses,"), &whole(url)))
                };
                let except = EXCEPT.iter().find_map(|name| environment.get(name));
                Ok(Self::Environment {
                    http: named(HTTP).transpose()?,
                    https: named(HTTPS).transpose()?,
                    except: except.unwrap_or_default().to_owned(),
                })
            }
            Some(url) => checked("http.proxy", url.expose_secret()).map(Self::By),
        }
    }

    /// Makes a client's calls go by it, or by none: never by what the library finds in the environment itself.
    ///
    /// # Errors
    /// Where the library does not take its URL, which was checked when this was made.
    pub fn on(&self, builder: ClientBuilder) -> reqwest::Result<ClientBuilder> {
        let builder = builder.no_proxy();
        match self {
            Self::Direct { .. } => Ok(builder),
            Self::By(url) => {
                let all = reqwest::Proxy::all(url.expose_secret())?;
                Ok(builder.proxy(all.no_proxy(NoProxy::from_string(LOOPBACK))))
            }
            Self::Environment { http, https, except } => {
                let but = NoProxy::from_string(&format!("{LOOPBACK},{except}"));
                let mut builder = builder;
                if let Some(url) = http {
                    builder = builder.proxy(reqwest::Proxy::http(url.expose_secret())?.no_proxy(but.clone()));
                }
                if let Some(url) = https {
                    builder = builder.proxy(reqwest::Proxy::https(url.expose_secret())?.no_proxy(but));
                }
                Ok(builder)
            }
        }
    }

    /// What to say where the environment names one that is not used, and nobody has chosen.
    pub fn unused(&self) -> Option<String> {
        match self {
            Self::Direct { unused } if !unused.is_empty() => Some(format!(
                "{} of the environment is not used: orgs and the mail service are called directly",
                unused.join(", ")
            )),
            Self::Direct { .. } | Self::By(_) | Self::Environment { .. } => None,
        }
    }

    /// Where calls go, where they do not go directly; without user and password.
    pub fn places(&self) -> Option<String> {
        match self {
            Self::Direct { .. } => None,
            Self::By(url) => Some(place(url)),
            Self::Environment { http, https, .. } => {
                let said = [("https", https), ("http", http)];
                let said: Vec<String> = said
                    .iter()
                    .filter_map(|(scheme, url)| Some(format!("{scheme} by {}", place(url.as_ref()?))))
                    .collect();
                Some(if said.is_empty() { "the environment names none".into() } else { said.join(", ") })
            }
        }
    }
}

fn checked(key: &str, text: &str) -> Result<SecretString, ConfigError> {
    let fits = |url: &Url| {
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && bare
    };
    let url = Url::parse(text).ok().filter(fits).ok_or_else(|| {
        ConfigError::wrong(
            key,
            "no proxy's URL (it is not repeated here, since it may hold a password)",
            "http://host:port or https://host:port, with user:password@ before the host where it wants a login; or \"env\"",
        )
    })?;
    Ok(SecretString::from(url.to_string()))
}

fn place(url: &SecretString) -> String {
    let url = Url::parse(url.expose_secret()).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let port = url.as_ref().and_then(Url::port_or_known_default).unwrap_or_default();
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The choice that this key makes in such an environment.
    fn chosen<const N: usize>(key: Option<&str>, variables: [(&str, &str); N]) -> Result<Proxy, String> {
        let raw = raw::Http {
            allowed_hosts: value::List::default(),
            listen: String::new(),
            token: None,
            token_file: None,
            proxy: key.map(SecretString::from),
            proxy_file: None,
        };
        Proxy::check(&raw, &Environment::of(variables)).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_configuration_chooses_a_proxy() {
        let set = [("HTTPS_PROXY", "http://a:1"), ("all_proxy", "b"), ("HTTP_PROXY", "")];
        let direct = chosen(None, set).unwrap();
        assert_eq!(direct.places(), None);
        assert!(direct.unused().unwrap().starts_with("HTTPS_PROXY, all_proxy of the environment is not used"));
        let empty = chosen(Some(""), []).unwrap();
        assert_eq!((empty.places(), empty.unused()), (None, None));
        let own = chosen(Some("https://u:s3cr3t@c"), set).unwrap();
        assert_eq!((own.places().as_deref(), own.unused()), (Some("c:443"), None));
        assert!(!format!("{own:?}").contains("s3cr3t"));
        let env = chosen(Some("env"), set).unwrap();
        assert_eq!((env.places().as_deref(), env.unused()), (Some("https by a:1, http by b:80"), None));
        assert_eq!(chosen(Some("env"), []).unwrap().places().as_deref(), Some("the environment names none"));
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        for bad in ["proxy:3128", "socks5://u:s3cr3t@p", "http://p/s3cr3t", "http://p?s3cr3t", "s3cr3t"] {
            let said = chosen(Some(bad), []).unwrap_err();
            assert!(said.contains("http.proxy") && !said.contains("s3cr3t"), "{said}");
        }
        let said = chosen(Some("env"), [("ALL_PROXY", "socks5://u:s3cr3t@p")]).unwrap_err();
        assert!(said.contains("ALL_PROXY") && said.contains("\"env\"") && !said.contains("s3cr3t"), "{said}");
    }

    #[tokio::test]
    async fn this_machine_is_called_without_one() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        for choice in [
            chosen(Some("http://127.0.0.1:9"), []),
            chosen(Some("env"), [("HTTP_PROXY", "http://127.0.0.1:9"), ("NO_PROXY", "example.com")]),
        ] {
            let client = choice.unwrap().on(reqwest::Client::builder()).unwrap().build().unwrap();
            for (bind, host) in [("127.0.0.1:0", "127.0.0.1"), ("127.0.0.1:0", "localhost"), ("[::1]:0", "[::1]")] {
                let listener = tokio::net::TcpListener::bind(bind).await.unwrap();
                let port = listener.local_addr().unwrap().port();
                let answer = async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let _ = stream.read(&mut [0; 1024]).await;
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                };
                let call = client.get(format!("http://{host}:{port}/")).send();
                let (called, ()) = tokio::join!(call, answer);
                assert_eq!(called.unwrap().status(), 204, "{host}");
            }
        }
    }
}

//! Where a job stands in its producer's trace.

/// A `traceparent` of W3C Trace Context (section 3.2): version, trace id, the producer's span, flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(String);

/// The parts of version 00, in hex digits: version, trace id, parent id, flags.
const PARTS: [usize; 4] = [2, 32, 16, 2];
/// The longest that is passed on; later versions may have more parts.
const MAX: usize = 255;

impl TraceParent {
    /// Takes what is well formed; anything else is no trace, and is not passed on.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        for length in PARTS {
            let part = parts.next()?;
            let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            // An id of zeros is none; version and flags may be.
            let is_unset = length > 2 && part.bytes().all(|byte| byte == b'0');
            if part.len() != length || !is_hex || is_unset {
                return None;
            }
        }
        let may_have_more = !text.starts_with("00");
        let fits = text.len() <= MAX && !text.starts_with("ff") && (may_have_more || parts.next().is_none());
        fits.then(|| Self(text.to_owned()))
    }

    /// As it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_well_formed_one_is_taken_as_it_came() {
        for good in [GOOD, &GOOD.replacen("00", "01", 1), &format!("{}-more", GOOD.replacen("00", "cc", 1))] {
            assert_eq!(TraceParent::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn anything_else_is_no_trace() {
        let zeros = |id: &str| GOOD.replace(id, &"0".repeat(id.len()));
        let bad = [
            String::new(),
            "hunter2".into(),
            GOOD.to_uppercase(),
            GOOD.replace('-', "_"),
            format!("{GOOD}-more"),
            GOOD[..53].to_owned(),
            GOOD.replacen("00", "ff", 1),
            format!("{}-{}", GOOD.replacen("00", "cc", 1), "x".repeat(MAX)),
            zeros("0af7651916cd43dd8448eb211c80319c"),
            zeros("b7ad6b7169203331"),
        ];
        for bad in bad {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }
}

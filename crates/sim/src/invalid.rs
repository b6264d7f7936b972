//! A 400 of SCIM.

use std::borrow::Cow;

/// What is wrong with a call.
#[derive(Debug)]
pub(super) struct Invalid {
    pub(super) scim_type: ScimType,
    pub(super) detail: Cow<'static, str>,
}

/// The detail error keyword of a 400 (RFC 7644, section 3.12, table 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScimType {
    InvalidFilter,
    InvalidPath,
    InvalidSyntax,
    InvalidValue,
    Mutability,
    NoTarget,
}

impl ScimType {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidFilter => "invalidFilter",
            Self::InvalidPath => "invalidPath",
            Self::InvalidSyntax => "invalidSyntax",
            Self::InvalidValue => "invalidValue",
            Self::Mutability => "mutability",
            Self::NoTarget => "noTarget",
        }
    }
}

impl Invalid {
    pub(super) fn new(scim_type: ScimType, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { scim_type, detail: detail.into() }
    }

    pub(super) fn syntax(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ScimType::InvalidSyntax, detail)
    }
}

//! The checks of a decision.

/// Declares the checks, in the order in which a decision makes them, each with its name in explanations.
macro_rules! checks {
    ($($check:ident = $name:literal,)+) => {
        /// A check of a decision. The order is that of the checks.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Check {
            $($check,)+
        }

        impl Check {
            /// In their order.
            pub const ALL: &[Self] = &[$(Self::$check),+];

            /// The name in explanations.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$check => $name,)+
                }
            }
        }
    };
}

checks! {
    Rule = "rule",
    ApiKey = "api key",
    Token = "token",
    Issuer = "issuer",
    Algorithm = "algorithm",
    Key = "key",
    Signature = "signature",
    Type = "type",
    Time = "time",
    Audience = "audience",
    Claims = "claims",
    Introspection = "introspection",
    Proof = "proof",
    Revocation = "revocation",
    Scopes = "scopes",
    RequiredClaims = "required claims",
    Authentication = "authentication",
}

//! Errors of the kernel's interfaces as answers to a query.

use std::fmt;

use crate::{
    kernel::{netns, procfs, sock_diag},
    serve::protocol::{ApiError, ApiErrorKind},
};

/// The tracker cannot answer now, for this reason.
pub(crate) fn unavailable(why: impl fmt::Display) -> ApiError {
    ApiError {
        kind: ApiErrorKind::Unavailable,
        message: why.to_string(),
    }
}

impl From<netns::Error> for ApiError {
    fn from(error: netns::Error) -> Self {
        let kind = match &error {
            _ if error.is_permission() => ApiErrorKind::Refused,
            netns::Error::Text { .. }
            | netns::Error::Unknown { .. }
            | netns::Error::Gone { .. } => ApiErrorKind::BadArgument,
            netns::Error::Open { .. } | netns::Error::Enter { .. } => ApiErrorKind::Unavailable,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

impl From<sock_diag::Error> for ApiError {
    fn from(error: sock_diag::Error) -> Self {
        Self {
            kind: refused_if(error.is_permission()),
            message: error.to_string(),
        }
    }
}

impl From<procfs::Error> for ApiError {
    fn from(error: procfs::Error) -> Self {
        Self {
            kind: refused_if(error.is_permission()),
            message: error.to_string(),
        }
    }
}

const fn refused_if(permission: bool) -> ApiErrorKind {
    if permission {
        ApiErrorKind::Refused
    } else {
        ApiErrorKind::Unavailable
    }
}

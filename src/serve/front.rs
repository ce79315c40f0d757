//! What a gRPC connection meets first: checks, which are nearly all there is, then the other services.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use crate::api::check::CheckServer;

/// A check goes straight to its service: the way through the router of all services costs half a
/// microsecond.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) check: CheckServer,
    pub(super) others: Routes,
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<<CheckServer as Service<Request<Body>>>::Future, <Routes as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // As both are, always.
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if CheckServer::is_for(&request) {
            Either::Left(self.check.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

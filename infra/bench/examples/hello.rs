//! The least that an HTTP function of Lambda is: what the start of ours is compared with
//! (`infra/bench/benches/startup.rs`).

use lambda_http::{Body, Error, Response, run, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(async |_| {
        Ok::<_, Error>(Response::new(Body::from("hello")))
    }))
    .await
}

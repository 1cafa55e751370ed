//! The `config-test` Lambda function: see the library for what it does.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    (comms_config_test::FUNCTION.run)().await
}

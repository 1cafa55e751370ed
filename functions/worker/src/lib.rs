//! Stub.

/// Runs the function under the Lambda runtime until the environment ends.
pub async fn run() -> Result<(), lambda_runtime::Error> {
    Ok(())
}

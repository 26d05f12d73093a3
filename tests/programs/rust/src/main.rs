//! client PROGRAM [CLIENT_ID]: as clients.py, for object_store.

use object_store::azure::MicrosoftAzureBuilder;
use object_store::path::Path;
use object_store::ObjectStoreExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_account("account")
        .with_container_name("container");
    if let Some(client_id) = std::env::args().nth(2) {
        builder = builder.with_client_id(client_id);
    }
    let blob = builder.build()?.get(&Path::from("hello.csv")).await?;
    println!("{}", String::from_utf8(blob.bytes().await?.to_vec())?);
    Ok(())
}

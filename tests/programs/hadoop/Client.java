import java.io.InputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.security.UserGroupInformation;

/** Client PROGRAM [CLIENT_ID]: as clients.py, for Hadoop's ABFS. What it sets stands in core-site.xml otherwise. */
class Client {
    public static void main(String[] arguments) throws Exception {
        trust(Path.of(System.getenv("SSL_CERT_FILE")));
        // The test's users have no names, of which Hadoop wants one.
        UserGroupInformation.setLoginUser(UserGroupInformation.createRemoteUser("app"));
        Configuration settings = new Configuration();
        settings.set("fs.azure.account.auth.type", "OAuth");
        settings.set("fs.azure.account.oauth.provider.type", "org.apache.hadoop.fs.azurebfs.oauth2.MsiTokenProvider");
        settings.set("fs.azure.account.oauth2.msi.endpoint", "http://127.0.0.1:343/metadata/identity/oauth2/token");
        settings.set("fs.azure.account.oauth2.msi.tenant", "11111111-2222-3333-4444-555555555555");
        settings.set("fs.azure.account.hns.enabled", "true");
        if (arguments.length > 1) settings.set("fs.azure.account.oauth2.client.id", arguments[1]);
        FileSystem files = FileSystem.get(URI.create("abfss://container@account.dfs.core.windows.net/"), settings);
        try (InputStream blob = files.open(new org.apache.hadoop.fs.Path("/hello.csv"))) {
            System.out.println(new String(blob.readAllBytes()));
        }
    }

    /** Java has a store of its own for what it trusts, so the authority is named. */
    private static void trust(Path authority) throws Exception {
        Certificate certificate;
        try (InputStream pem = Files.newInputStream(authority)) {
            certificate = CertificateFactory.getInstance("X.509").generateCertificate(pem);
        }
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        store.setCertificateEntry("authority", certificate);
        TrustManagerFactory trusted = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trusted.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trusted.getTrustManagers(), null);
        SSLContext.setDefault(context);
    }
}

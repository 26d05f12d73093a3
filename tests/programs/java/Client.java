import java.nio.file.Path;
import java.sql.DriverManager;

/** Client PROGRAM [CLIENT_ID]: as clients.py, for mssql-jdbc. */
class Client {
    public static void main(String[] arguments) throws Exception {
        // Java has a store of its own for what it trusts, so the certificate is named.
        Path certificate = Path.of(System.getenv("SSL_CERT_FILE")).resolveSibling("cert.pem");
        String url = "jdbc:sqlserver://server.database.windows.net;encrypt=strict;authentication=ActiveDirectoryManagedIdentity;";
        String selector = arguments.length > 1 ? "msiClientId=" + arguments[1] + ";" : "";
        DriverManager.getConnection(url + selector + "serverCertificate=" + certificate).close();
        System.out.println("hello");
    }
}

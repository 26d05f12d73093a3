import com.azure.core.credential.TokenCredential;
import com.azure.core.credential.TokenRequestContext;
import com.azure.identity.DefaultAzureCredentialBuilder;
import com.azure.identity.ManagedIdentityCredentialBuilder;
import com.azure.json.JsonProviders;
import com.azure.json.JsonReader;
import com.azure.json.JsonWriter;
import com.microsoft.aad.msal4j.ManagedIdentityApplication;
import com.microsoft.aad.msal4j.ManagedIdentityId;
import com.microsoft.aad.msal4j.ManagedIdentityParameters;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringWriter;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** An application with azure-identity, with msal4j, or with the JDK's own client. It asks once for each line of its input. */
public class Client {
    interface Asking {
        String ask(String scope, String claims) throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = read(arguments[1]);
        Asking asking = switch (arguments[0]) {
            case "azure-identity for Java" -> azureIdentity(options);
            case "msal4j" -> msal4j(options);
            default -> jdk(options);
        };
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Map<String, String> asked = read(line);
            try {
                write("token", asking.ask(asked.get("scope"), asked.get("claims")));
            } catch (Exception error) {
                StringBuilder text = new StringBuilder();
                for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                    text.append(cause).append('\n');
                }
                write("error", text.toString());
            }
        }
        System.exit(0);
    }

    static Asking azureIdentity(Map<String, String> options) {
        TokenCredential credential;
        if ("default".equals(options.get("credential"))) {
            credential = new DefaultAzureCredentialBuilder().build();
        } else {
            ManagedIdentityCredentialBuilder builder = new ManagedIdentityCredentialBuilder();
            if (options.containsKey("client_id")) {
                builder.clientId(options.get("client_id"));
            } else if (options.containsKey("resource_id")) {
                builder.resourceId(options.get("resource_id"));
            }
            credential = builder.build();
        }
        return (scope, claims) -> {
            TokenRequestContext request = new TokenRequestContext().addScopes(scope);
            if (claims != null) {
                request.setClaims(claims);
            }
            return credential.getTokenSync(request).getToken();
        };
    }

    static Asking msal4j(Map<String, String> options) throws Exception {
        ManagedIdentityId identity = ManagedIdentityId.systemAssigned();
        if (options.containsKey("client_id")) {
            identity = ManagedIdentityId.userAssignedClientId(options.get("client_id"));
        } else if (options.containsKey("resource_id")) {
            identity = ManagedIdentityId.userAssignedResourceId(options.get("resource_id"));
        }
        ManagedIdentityApplication application = ManagedIdentityApplication.builder(identity).build();
        return (scope, claims) -> {
            var parameters = ManagedIdentityParameters.builder(resource(scope));
            if (claims != null) {
                parameters.claims(claims);
            }
            return application.acquireTokenForManagedIdentity(parameters.build()).get().accessToken();
        };
    }

    /** As a program does that has no library for it. */
    static Asking jdk(Map<String, String> options) {
        HttpClient client = HttpClient.newHttpClient();
        return (scope, claims) -> {
            String query = "?api-version=2019-08-01&resource=" + encoded(resource(scope));
            if (options.containsKey("client_id")) {
                query += "&client_id=" + encoded(options.get("client_id"));
            } else if (options.containsKey("resource_id")) {
                query += "&mi_res_id=" + encoded(options.get("resource_id"));
            }
            HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("IDENTITY_ENDPOINT") + query))
                    .header("X-IDENTITY-HEADER", System.getenv("IDENTITY_HEADER"))
                    .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            if (answer.statusCode() != 200) {
                throw new IllegalStateException(answer.body());
            }
            return read(answer.body()).get("access_token");
        };
    }

    static String resource(String scope) {
        return scope.endsWith("/.default") ? scope.substring(0, scope.length() - "/.default".length()) : scope;
    }

    static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    static Map<String, String> read(String json) throws Exception {
        try (JsonReader reader = JsonProviders.createReader(json)) {
            return reader.readMap(JsonReader::getString);
        }
    }

    static void write(String name, String value) throws Exception {
        StringWriter text = new StringWriter();
        try (JsonWriter writer = JsonProviders.createWriter(text)) {
            writer.writeStartObject().writeStringField(name, value).writeEndObject();
        }
        System.out.println(text);
    }
}

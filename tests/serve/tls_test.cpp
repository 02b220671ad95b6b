// The server inside TLS, with a certificate made here: what holds for plain HTTP holds there.

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>

#include "base/file.h"
#include "base/output_file.h"
#include "tests/support/served.h"
#include "tests/support/shared.h"

namespace hadal::serve {
namespace {

using namespace testing;

// A key, and a certificate of it for localhost.
struct Identity {
  std::string certificate, key;
};
std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}
Identity make_identity(const char* password = nullptr) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  X509_set_pubkey(certificate, key);
  X509_sign(certificate, key, EVP_sha256());
  BIO *one = BIO_new(BIO_s_mem()), *two = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(one, certificate);
  PEM_write_bio_PrivateKey(two, key, password ? EVP_aes_128_cbc() : nullptr, nullptr, 0, nullptr,
                           const_cast<char*>(password));
  X509_free(certificate);
  EVP_PKEY_free(key);
  return {text_of(one), text_of(two)};
}

struct TlsFiles {
  const std::string directory = temp_dir("tls"), certificate = directory + "/cert.pem", key = directory + "/key.pem";
  explicit TlsFiles(const Identity& identity = make_identity()) {
    EXPECT_TRUE(write_file(certificate, identity.certificate).ok());
    EXPECT_TRUE(write_file(key, identity.key).ok());
  }
  ServerOptions options() const {
    ServerOptions options;
    options.http.tls_certificate = certificate;
    options.http.tls_key = key;
    return options;
  }
};

class TlsClient {
 public:
  explicit TlsClient(const Running& running, int version = TLS1_3_VERSION) : plain_(running.port()) {
    SSL_CTX_set_min_proto_version(context_, version);
    SSL_CTX_set_max_proto_version(context_, version);
    SSL_CTX_set_security_level(context_, 0);  // or it would not even offer old versions
    tls_ = SSL_new(context_);
    SSL_set_fd(tls_, plain_.socket());
    connected_ = SSL_connect(tls_) == 1;
  }
  TlsClient(const TlsClient&) = delete;
  ~TlsClient() {
    close();
    SSL_free(tls_);
    SSL_CTX_free(context_);
  }
  bool connected() const { return connected_; }
  void close() {
    if (connected_) SSL_shutdown(tls_);
    connected_ = false;
    plain_.close();
  }
  void send(const std::string& text) {
    for (size_t done = 0; done < text.size();) {
      const int n = SSL_write(tls_, text.data() + done, static_cast<int>(text.size() - done));
      if (n <= 0) return;
      done += static_cast<size_t>(n);
    }
  }
  std::string read(const std::string& until = "") {
    std::string text;
    char buffer[65536];
    while (until.empty() || text.find(until) == std::string::npos) {
      const int n = SSL_read(tls_, buffer, sizeof buffer);
      if (n <= 0) {
        ended_well_ = SSL_get_error(tls_, n) == SSL_ERROR_ZERO_RETURN;
        break;
      }
      text.append(buffer, static_cast<size_t>(n));
    }
    return text;
  }
  bool ended_well() const { return ended_well_; }  // the server said goodbye

 private:
  HttpClient plain_;
  SSL_CTX* context_ = SSL_CTX_new(TLS_client_method());
  SSL* tls_ = nullptr;
  bool connected_ = false, ended_well_ = false;
};
HttpAnswer talk_tls(const Running& running, const std::string& request) {
  TlsClient client(running);
  client.send(request);
  return parse_answer(client.read());
}

TEST(Tls, VersionsFrom12On) {
  signal(SIGPIPE, SIG_IGN);
  const TlsFiles files;
  const Running running(files.options());
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    TlsClient client(running, version);
    ASSERT_TRUE(client.connected()) << version;
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(parse_answer(client.read()).status, 200);
    EXPECT_TRUE(client.ended_well());
  }
  EXPECT_FALSE(TlsClient(running, TLS1_1_VERSION).connected());
  EXPECT_FALSE(TlsClient(running, TLS1_VERSION).connected());
  // No TLS at all: no HTTP answer, and others are served.
  HttpClient plain(running.port());
  EXPECT_TRUE(plain.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  EXPECT_FALSE(plain.read().starts_with("HTTP"));
  EXPECT_TRUE(TlsClient(running).connected());
}

TEST(Tls, AnswersAreThoseOfPlainHttp) {
  const TlsFiles files;
  const Running running(files.options()), plain;
  const auto content = [](const HttpAnswer& answer) {
    return body_of(answer).find("choices")->as_array()[0].find("message")->find("reasoning_content")->as_string();
  };
  const std::string request = post_request("/v1/chat/completions", ask("question", 60, false));
  EXPECT_EQ(content(talk_tls(running, request)), content(talk(plain.port(), request)));
  const HttpAnswer stream = talk_tls(running, post_request("/v1/chat/completions", ask("question", 60, true)));
  EXPECT_EQ(stream.status, 200);
  EXPECT_EQ(events_of(stream.body).back().data, "[DONE]");
  // A body of many records.
  EXPECT_EQ(talk_tls(running, post_request("/tokenize", R"({"prompt":")" + std::string(1 << 20, 'x') + "\"}")).status,
            200);
}

TEST(Tls, AConnectionServesOneRequestAfterAnother) {
  const TlsFiles files;
  const Running running(files.options());
  TlsClient client(running);
  for (int i = 0; i < 3; ++i) {
    client.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(parse_answer(client.read("]}")).status, 200);
    client.send(post_request("/v1/chat/completions", ask("x", 5, true), ""));
    EXPECT_NE(client.read("0\r\n\r\n").find("[DONE]"), std::string::npos);
  }
  // Two in one record: the second is inside the library when the first is answered.
  const std::string get = "GET /health HTTP/1.1\r\nHost: localhost\r\n";
  client.send(get + "\r\n" + get + "Connection: close\r\n\r\n");
  const std::string both = client.read();
  EXPECT_NE(both.find("HTTP/1.1 200", 1), std::string::npos) << both;
}

TEST(Tls, LimitsAreThoseOfPlainHttp) {
  const TlsFiles files;
  ServerOptions options = files.options();
  options.http.max_body = 100000;
  options.http.header_seconds = 1;
  const Running running(options);
  EXPECT_EQ(talk_tls(running, post_request("/chat/completions", std::string(200000, ' '))).status, 413);
  EXPECT_EQ(talk_tls(running, "GET / HTTP/1.1\r\nX: " + std::string(40000, 'x') + "\r\n\r\n").status, 431);
  EXPECT_EQ(talk_tls(running, "NONSENSE\r\n\r\n").status, 400);
  EXPECT_EQ(talk_tls(running, "GET /health HTTP/1.1\r\nHos").status, 408);  // and never more
  HttpClient silent(running.port());
  EXPECT_GE(silent.socket(), 0);
  EXPECT_EQ(silent.read(), "");  // who never shakes hands is let go
}

TEST(Tls, AClientThatLeavesMakesRoom) {
  const TlsFiles files;
  ServerOptions options = files.options();
  options.limits.max_running = 1;
  const Running running(options, false);
  for (const bool stream : {true, false}) {
    TlsClient client(running);
    client.send(post_request("/v1/chat/completions", ask("endless", 99000, stream), ""));
    if (stream) client.read("reasoning_content");
    client.close();
    // The only place is free again: or this would wait for ninety thousand tokens.
    EXPECT_EQ(talk_tls(running, post_request("/v1/chat/completions", ask("next", 3, false))).status, 200);
  }
}

TEST(Tls, WrongFilesAreOneLine) {
  const TlsFiles files, others;
  const auto error = [](const std::string& certificate, const std::string& key) {
    const Status status = check_tls({.tls_certificate = certificate, .tls_key = key});
    return status.ok() ? "" : status.error().message;
  };
  EXPECT_EQ(error(files.certificate, files.key), "");
  EXPECT_EQ(error("", ""), "");
  const std::string missing = files.directory + "/missing";
  const std::string expected_certificate = ": expected a certificate in PEM: ",
                    expected_key = ": expected the certificate's private key in PEM, without a password: ";
  EXPECT_TRUE(error(missing, files.key).starts_with(missing + expected_certificate));
  EXPECT_TRUE(error(files.certificate, missing).starts_with(missing + expected_key));
  EXPECT_TRUE(error(files.key, files.key).starts_with(files.key + expected_certificate)) << error(files.key, files.key);
  EXPECT_TRUE(error(files.certificate, files.certificate).starts_with(files.certificate + expected_key));
  EXPECT_TRUE(error(files.certificate, others.key).starts_with(others.key + expected_key));
  const TlsFiles locked(make_identity("secret"));
  EXPECT_TRUE(error(locked.certificate, locked.key).starts_with(locked.key + expected_key));
  for (const std::string& text : {error(missing, missing), error(files.certificate, others.key)})
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
}

}  // namespace
}  // namespace hadal::serve

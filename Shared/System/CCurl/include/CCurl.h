// Typed wrappers around libcurl's variadic functions, which Swift cannot call.
#ifndef FORETASTE_CCURL_H
#define FORETASTE_CCURL_H

#include <curl/curl.h>

typedef size_t (*ccurl_data_function)(char *data, size_t size, size_t count, void *context);
typedef int (*ccurl_progress_function)(void *context, curl_off_t download_total, curl_off_t downloaded, curl_off_t upload_total,
                                       curl_off_t uploaded);
typedef curl_socket_t (*ccurl_socket_function)(void *context, curlsocktype purpose, struct curl_sockaddr *address);
typedef int (*ccurl_seek_function)(void *context, curl_off_t offset, int origin);

/// Once a process, before any handle is made and before other threads use curl.
CURLcode ccurl_global_init(void);

CURLcode ccurl_set_long(CURL *handle, CURLoption option, long value);
CURLcode ccurl_set_offset(CURL *handle, CURLoption option, curl_off_t value);
/// libcurl copies the string.
CURLcode ccurl_set_string(CURL *handle, CURLoption option, const char *value);
/// The list must outlive the transfer.
CURLcode ccurl_set_headers(CURL *handle, struct curl_slist *list);
/// Addresses that stand for the name service's answers; the list must outlive the transfer.
CURLcode ccurl_set_resolve(CURL *handle, struct curl_slist *list);
CURLcode ccurl_set_write(CURL *handle, ccurl_data_function function, void *context);
CURLcode ccurl_set_read(CURL *handle, ccurl_data_function function, void *context);
CURLcode ccurl_set_seek(CURL *handle, ccurl_seek_function function, void *context);
CURLcode ccurl_set_header_function(CURL *handle, ccurl_data_function function, void *context);
CURLcode ccurl_set_progress(CURL *handle, ccurl_progress_function function, void *context);
CURLcode ccurl_set_open_socket(CURL *handle, ccurl_socket_function function, void *context);
/// HTTP and HTTPS and nothing else, for the transfer and for redirects, whatever libcurl was built with.
CURLcode ccurl_set_http_only(CURL *handle);

/// The body of a POST; not copied, it must outlive the transfer. Set its size first.
CURLcode ccurl_set_body(CURL *handle, const void *bytes);

CURLcode ccurl_get_long(CURL *handle, CURLINFO info, long *value);
CURLcode ccurl_get_offset(CURL *handle, CURLINFO info, curl_off_t *value);

#endif
